"""Law: a loaded network says what training said. Faults: what is no checkpoint is one line."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cid_ray
from cid_ray.config import InputError
from cid_ray.core import iou
from cid_ray.data.band_image import BandImage
from cid_ray.data.image_codec import decode_image, default_colors, encode_png
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.image_reader import ImageReader
from cid_ray.data.ingest.input_image import read_input
from cid_ray.data.input_spec import InputSpec, ModelData, WindowSpec
from cid_ray.inference.tta import NO_TTA, Tta
from cid_ray.results.records import of_event, read_records
from tests.helpers.untrained import save_untrained

LAST = ("checkpoints", "train", "last.pt")


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_scores_of_loaded_network_are_those_of_the_run(trained: Path, network: Any) -> None:
    predictor = cid_ray.load_model(trained, network=network)
    table = cid_ray.open_table("demo")
    total = np.zeros((table.num_classes,) * 2, np.int64)
    for row in table.rows("test").tolist():
        image, mask = table.read(row, mask=True)
        assert mask is not None
        pairs = mask.astype(int) * table.num_classes + predictor(image).classes
        total += np.bincount(pairs[mask != 255].ravel(), minlength=table.num_classes**2).reshape(
            total.shape
        )
    (final,) = of_event(read_records(trained), "final")
    suffix = "_teacher" if network == "teacher" else ""
    assert iou.iou_scores(total, table.classes)["miou"] == final[f"test/miou{suffix}"]


def test_any_form_of_an_image_is_predicted_alike(trained: Path, tmp_path: Path) -> None:
    predictor = cid_ray.load_model(trained / Path(*LAST))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    (tmp_path / "photo.png").write_bytes(encode_png(pixels))
    expected = predictor(pixels)
    assert expected.classes.shape == (40, 56) and expected.classes.dtype == np.uint8
    assert np.allclose(expected.probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(expected.confidence, expected.probabilities.max(0))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), tensor, tmp_path / "photo.png"):
        assert np.array_equal(predictor(image).probabilities, expected.probabilities)
    grey = predictor(pixels[..., 0])
    assert np.array_equal(
        grey.probabilities, predictor(np.repeat(pixels[..., :1], 3, -1)).probabilities
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_file_has_the_pixels_that_an_import_would_store(
    tmp_path: Path, mode: str, suffix: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    file = tmp_path / f"photo.{suffix}"
    try:
        Image.fromarray(pixels).convert(mode).save(file)
    except OSError:
        pytest.skip(f"no {suffix} of {mode}")
    try:
        stored = decode_image(ImageReader().read(file).encoded)
    except BadFile:
        with pytest.raises(InputError):
            read_input(file, InputSpec())
        return
    assert np.array_equal(np.asarray(read_input(file, InputSpec())), np.asarray(stored))


def test_run_is_named_by_folder_ratio_or_trial(trained: Path) -> None:
    for name in (str(trained), f"{trained}:1/8", f"{trained}:train"):
        predictor = cid_ray.load_model(name)
        assert predictor.checkpoint.path == trained.joinpath(*LAST)
        assert predictor.step == 12 and predictor.classes == cid_ray.open_table("demo").classes
        assert predictor.colors == cid_ray.open_table("demo").colors
    assert predictor.describe()[0].endswith("(CID, 1/8 (24)), teacher at step 12")


def test_folder_whose_name_has_a_colon_is_found(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run:1")
    assert cid_ray.load_model(tmp_path / "run:1").step == 12
    assert cid_ray.load_model(f"{tmp_path / 'run:1'}:1/8").step == 12


def test_mirror_image_has_the_mirrored_mean_of_flips(trained: Path) -> None:
    predictor = cid_ray.load_model(trained)
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    flip = Tta.parse("flip")
    first = predictor(pixels, flip).probabilities
    second = predictor(pixels[:, ::-1], flip).probabilities
    assert np.allclose(first, second[..., ::-1], atol=1e-6)
    assert np.array_equal(predictor(pixels, NO_TTA).classes, predictor(pixels).classes)
    scaled = predictor(pixels, Tta.parse("scales,flip")).probabilities
    assert np.allclose(scaled.sum(0), 1, atol=1e-5) and not np.allclose(scaled, first)
    with pytest.raises(InputError, match="--tta has 'turn', must be flip, scales"):
        Tta.parse("flip,turn")


# ---- other data than photos ----


def test_network_of_five_bands_needs_no_table(tmp_path: Path) -> None:
    data = ModelData(
        classes=["a", "b"], colors=[[0, 0, 0], [9, 9, 9]], num_channels=5, bands=[1, 2, 3, 4, 5]
    )
    save_untrained(tmp_path / "last.pt", data, ([90.0] * 5, [40.0] * 5))
    predictor = cid_ray.load_model(tmp_path / "last.pt")
    planes = np.random.default_rng(0).integers(0, 256, (5, 40, 48), np.uint8)
    import tifffile

    tifffile.imwrite(tmp_path / "field.tif", planes, photometric="minisblack")
    expected = predictor(BandImage(planes)).probabilities
    assert np.array_equal(predictor(tmp_path / "field.tif").probabilities, expected)
    with pytest.raises(InputError, match=r"the image has 3 channels, .* trained on 5"):
        predictor(np.zeros((8, 8, 3), np.uint8))


def test_deep_image_is_scaled_by_the_window_of_the_training_data(tmp_path: Path) -> None:
    window = WindowSpec(low=0, high=4095)
    data = ModelData(classes=["a", "b"], colors=[[0, 0, 0], [9, 9, 9]], window=window)
    save_untrained(tmp_path / "last.pt", data)
    predictor = cid_ray.load_model(tmp_path / "last.pt")
    grey = np.random.default_rng(0).integers(0, 4096, (40, 48)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "scan.png")
    scaled = np.rint(grey * (255 / 4095)).astype(np.uint8)
    expected = predictor(scaled).probabilities
    assert np.array_equal(predictor(tmp_path / "scan.png").probabilities, expected)


def test_deep_image_for_a_network_of_8_bit_images_is_refused(trained: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "scan.png")
    predictor = cid_ray.load_model(trained)
    with pytest.raises(InputError, match=r"scan.png: more than 8 bits .* trained on 8-bit"):
        predictor(tmp_path / "scan.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text.png: unreadable"):
        predictor(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"absent.png cannot be read \(No such file"):
        predictor(tmp_path / "absent.png")
    with pytest.raises(InputError, match=r"must be u8\[H, W, C\].* not float32 of shape \[8, 8\]"):
        predictor(np.zeros((8, 8), np.float32))


# ---- what is no checkpoint ----


def changed(trained: Path, target: Path, **changes: Any) -> Path:
    content = torch.load(trained.joinpath(*LAST), weights_only=True)
    content.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del content[key]
    torch.save(content, target)
    return target


def test_checkpoint_of_an_older_layout_has_default_colors(trained: Path, tmp_path: Path) -> None:
    classes = cid_ray.open_table("demo").classes
    old = changed(trained, tmp_path / "old.pt", data=None, classes=classes)
    predictor = cid_ray.load_model(old)
    assert predictor.classes == classes and predictor.colors == default_colors(len(classes))
    assert "does not know the colours" in predictor.describe()[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, r"is of another layout \(KeyError: 'teacher'"),
        ({"teacher": {}}, "is of another layout"),
        ({"config": "model: {encoder: none_such}"}, "no timm model"),
        ({"config": "model: {width: 3}"}, "unknown key"),
        ({"config": "[1, 2]"}, "its config is no mapping"),
        ({"data": "{}"}, "classes"),
        ({"data": '{"classes": ["a"], "colors": [[0, 0, 0]]}'}, "is of another layout"),
        ({"data": '{"classes": ["a"], "colors": []}'}, "1 classes have 0 colors"),
        ({"config": "model: {decoder: unet, encoder: resnet18}"}, "is of another layout"),
    ],
)
def test_foreign_content_is_one_line(
    trained: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = changed(trained, tmp_path / "foreign.pt", **changes)
    with pytest.raises(InputError, match=message) as caught:
        cid_ray.load_model(path)
    assert str(caught.value).startswith(f"checkpoint {path}")


def test_names_of_nothing_say_what_there_is(trained: Path, tmp_path: Path) -> None:
    for name, message in {
        str(tmp_path / "nothing"): "neither a checkpoint .* nor a run folder",
        str(tmp_path / "nothing.pt"): "does not exist",
        f"{trained}:1/16": "neither a ratio nor a trial '1/16', but 1/8, train",
        str(trained / "config.yaml"): "neither a checkpoint",
    }.items():
        with pytest.raises(InputError, match=message):
            cid_ray.load_model(name)
    with pytest.raises(InputError, match="network is 'both', must be one of teacher, student"):
        cid_ray.load_model(trained, network="both")  # type: ignore[arg-type]
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer)
    (tmp_path / "other.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"other.pt cannot be read|another layout"):
        cid_ray.load_model(tmp_path / "other.pt")


def test_removed_checkpoint_of_a_loser_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    tmp_path.joinpath("run", *LAST).unlink()
    with pytest.raises(InputError, match="does not exist: a search keeps the checkpoints of the"):
        cid_ray.load_model(tmp_path / "run")
