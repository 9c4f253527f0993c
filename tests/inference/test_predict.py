"""Contract of `predict`: masks named like the images, a kill loses nothing, no pixel left out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import cid_ray
from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings
from cid_ray.inference import image_parts
from cid_ray.inference.inputs import list_inputs
from cid_ray.inference.tta import NO_TTA, Tta
from cid_ray.predict import main as predict
from cid_ray.prepare import main as prepare

GEO = [
    (33550, "d", 3, (0.5, 0.5, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 1e5, 5e5, 0.0), True),
    (34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 25832), True),
]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def records_of(out: Path) -> dict[str, Any]:
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return {record["name"]: record for record in map(json.loads, lines)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    save_png(tmp_path / "photos" / "a" / "x.png", noise(40, 56, 1))
    save_png(tmp_path / "photos" / "b.png", noise(33, 64, 2))
    save_png(tmp_path / "photos" / "b.bmp", noise(33, 64, 3))
    return tmp_path / "photos"


def test_masks_are_named_like_images_and_are_the_prediction(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_text("no image")
    (photos / "notes.txt").write_text("x")
    out = tmp_path / "out"
    kinds = ["--overlay", "--confidence", "--probabilities"]
    assert predict([str(trained), str(photos), "--out", str(out), *kinds]) == 0
    shown = capsys.readouterr().out
    assert "left out: 1 files that are no pictures" in shown
    assert "3 images predicted, 1 could not be read" in shown
    assert "bad.png: unreadable or truncated image (not a picture)" in shown
    masks = sorted(path.relative_to(out / "masks").as_posix() for path in out.rglob("masks/**/*.*"))
    assert masks == ["a/x.png", "b.bmp.png", "b.png.png"]  # two images are called b
    predictor = cid_ray.load_model(trained)
    prediction = predictor(photos / "a" / "x.png")
    mask = Image.open(out / "masks" / "a" / "x.png")
    assert np.array_equal(np.asarray(mask), prediction.classes)
    palette = mask.getpalette() or []
    assert palette[: 3 * len(predictor.colors)] == [v for c in predictor.colors for v in c]
    levels = np.asarray(Image.open(out / "confidence" / "a" / "x.png"))
    assert np.abs(levels / 65535 - prediction.confidence).max() < 1e-4
    stored = np.load(out / "probabilities" / "a" / "x.npz")["probabilities"]
    assert np.abs(stored - prediction.probabilities).max() < 1e-3
    assert Image.open(out / "overlays" / "a" / "x.jpg").size == (56, 40)
    record = records_of(out)["a/x"]
    assert record["height"], record["width"] == (40, 56)
    counts = np.bincount(prediction.classes.ravel(), minlength=len(predictor.classes))
    assert record["fractions"] == {
        name: round(count / counts.sum(), 6)
        for name, count in zip(predictor.classes, counts.tolist(), strict=True)
        if count
    }
    assert (out / "classes.txt").read_text().split() == predictor.classes


def test_masks_can_be_imported_as_labels(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict([str(trained), str(photos / "a"), "--out", str(out), "-q"]) == 0
    table = tmp_path / "table"
    options = ["--images", str(photos / "a"), "--masks", str(out / "masks")]
    classes = ["--classes", str(out / "classes.txt")]
    assert prepare(["folder", *options, *classes, "--out", str(table)]) == 0
    found = cid_ray.open_table(str(table))
    assert found.classes == cid_ray.load_model(trained).classes
    assert np.array_equal(found.mask(0), np.asarray(Image.open(out / "masks" / "x.png")))


def test_rows_of_a_table_are_predicted_from_what_it_stores(
    trained: Path, small_demo: Path, tmp_path: Path
) -> None:
    assert predict([str(trained), str(small_demo), "--out", str(tmp_path / "out"), "-q"]) == 0
    table = cid_ray.open_table(str(small_demo))
    unlabeled = np.flatnonzero(~table.labeled)
    rows = unlabeled if len(unlabeled) else np.arange(len(table))
    records = records_of(tmp_path / "out")
    assert sorted(records) == sorted(table.ids(rows))
    name = table.ids(rows[:1])[0]
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
    image = table.read(int(rows[0]), mask=False)[0]
    assert np.array_equal(mask, cid_ray.load_model(trained)(image).classes)


# ---- a run that was stopped ----


def test_killed_run_continues_and_predicts_nothing_twice(trained: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(40):
        save_png(photos / f"{number:02d}.png", noise(300, 400, number))
    command = [sys.executable, "-m", "cid_ray.predict", str(trained), str(photos)]
    environment = {**os.environ, "PYTHONPATH": str(Path(cid_ray.__file__).parents[1])}
    process = subprocess.Popen(
        [*command, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "predictions.jsonl").exists() and len(records_of_half(out)) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = records_of_half(out)
    assert 3 <= len(before) < 40
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"event": "pred')  # a line that the kill cut short
    assert predict([str(trained), str(photos), "--out", str(out), "-q"]) == 0
    lines = [line for line in (out / "predictions.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in lines if line.endswith("}") and line.startswith("{")]
    names = [record["name"] for record in whole]
    assert len(names) == len(set(names)) == 40
    assert {record["name"]: record for record in whole[: len(before)]} == before
    assert len(list((out / "masks").glob("*.png"))) == 40


def records_of_half(out: Path) -> dict[str, Any]:
    """The complete lines of a file that is being written."""
    found = {}
    for line in (out / "predictions.jsonl").read_text().splitlines(keepends=True):
        if line.endswith("}\n"):
            record = json.loads(line)
            found[record["name"]] = record
    return found


def test_unreadable_image_is_tried_again_and_other_settings_are_refused(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.png").write_text("no image")
    command = [str(trained), str(photos), "--out", str(tmp_path / "out"), "-q"]
    assert predict(command) == 0
    save_png(photos / "bad.png", noise(40, 40))
    assert predict(command) == 0
    assert records_of(tmp_path / "out")["bad"]["event"] == "prediction"
    for more, message in {
        "--overlay": "outputs",
        "--tta=flip": "tta",
        "--network=student": "network",
    }.items():
        with pytest.raises(InputError, match=f"holds predictions with {message} "):
            predict([*command, more])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(letter.txt\)"):
        predict([*command[:2], "--out", str(foreign)])


# ---- any size ----


class LocalNet(torch.nn.Module):
    """Sees 3 pixels around a pixel, and nothing beyond the image's border."""

    def __init__(self, num_classes: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(num_classes, 3, 7, 7, generator=generator) / 500

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.nn.functional.conv2d(image.float(), self.weight, padding=3)
        return logits, logits


@pytest.mark.parametrize("tile", [64, 96, 128])
def test_tile_size_changes_nothing_where_the_field_of_view_is_in_the_unused_border(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    predictor = cid_ray.load_model(trained)
    predictor.net = LocalNet(len(predictor.classes))  # type: ignore[assignment]
    image = Image.fromarray(noise(290, 350))
    whole = predictor(image)
    monkeypatch.setattr(image_parts, "MAX_WHOLE_PIXELS", 1000)
    options = image_parts.PredictOptions(tile=tile)
    rows = list(image_parts.ImageParts(predictor, options, image).rows())
    assert len(rows) > 1
    confidence = np.concatenate([each.confidence for each in rows])
    assert np.allclose(confidence, whole.confidence, atol=1e-5)
    classes = np.concatenate([each.classes for each in rows])
    assert (classes != whole.classes).mean() < 1e-4  # ties


def test_large_image_is_covered_by_tiles_of_a_network_that_sees_far(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = cid_ray.load_model(trained)
    monkeypatch.setattr(image_parts, "MAX_WHOLE_PIXELS", 1000)
    image = Image.fromarray(noise(290, 350))
    parts = image_parts.ImageParts(predictor, image_parts.PredictOptions(tile=128), image)
    rows = list(parts.rows())
    assert sum(len(each.classes) for each in rows) == 290
    confidence = np.concatenate([each.confidence for each in rows])
    assert confidence.shape == (290, 350)
    assert 1 / len(predictor.classes) < confidence.min() and confidence.max() <= 1 + 1e-5


def test_tiff_read_by_windows_gives_the_same_as_decoded_whole(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(290, 350)
    path = tmp_path / "field.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(64, 64), compression="zlib", extratags=GEO
    )
    monkeypatch.setattr(image_parts, "MAX_WHOLE_PIXELS", 1000)
    out = tmp_path / "out"
    command = [str(trained), str(path), "--out", str(out), "--tile", "128", "--overlay", "-q"]
    assert predict(command) == 0
    predictor = cid_ray.load_model(trained)
    parts = image_parts.ImageParts(
        predictor, image_parts.PredictOptions(tile=128), Image.fromarray(pixels)
    )
    assert not parts.by_windows
    expected = np.concatenate([each.classes for each in parts.rows()])
    with tifffile.TiffFile(out / "masks" / "field.tif") as file:
        page = file.pages.first
        assert np.array_equal(page.asarray(), expected)
        for code, _, _, value, _ in GEO:
            assert page.tags[code].value == value
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
    assert records_of(out)["field"]["left_out"] == ["overlay"]


def test_mask_of_a_small_geotiff_keeps_its_place(trained: Path, tmp_path: Path) -> None:
    pixels = noise(40, 48)
    tifffile.imwrite(tmp_path / "field.tif", pixels, photometric="rgb", extratags=GEO)
    out = tmp_path / "out"
    assert predict([str(trained), str(tmp_path / "field.tif"), "--out", str(out), "-q"]) == 0
    with tifffile.TiffFile(out / "masks" / "field.tif") as file:
        page = file.pages.first
        assert np.array_equal(page.asarray(), cid_ray.load_model(trained)(pixels).classes)
        assert page.tags[33922].value == GEO[1][3]


def test_damaged_part_of_a_tiff_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos" / "field.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, noise(290, 350), photometric="rgb", tile=(64, 64), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[-1]
    content[offset : offset + 16] = b"\0" * 16
    path.write_bytes(bytes(content))
    save_png(path.with_name("good.png"), noise(20, 40))
    monkeypatch.setattr(image_parts, "MAX_WHOLE_PIXELS", 1000)
    out = tmp_path / "out"
    assert predict([str(trained), str(path.parent), "--out", str(out), "--tile", "128", "-q"]) == 0
    record = records_of(out)["field"]
    assert record["event"] == "unreadable" and "are damaged or truncated" in record["reason"]
    assert [file.name for file in (out / "masks").iterdir()] == ["good.png"]


def test_rows_of_resized_scores_are_those_of_the_whole() -> None:
    scores = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0))
    for size in ((100, 131), (17, 23), (9, 50)):
        whole = torch.nn.functional.interpolate(
            scores[None], size=size, mode="bilinear", align_corners=False
        )[0]
        parts = torch.cat(list(image_parts.resize_rows(scores, size, 7)), dim=1)
        assert torch.allclose(parts, whole, atol=1e-5)


def test_image_that_is_too_small_for_the_network_is_named(trained: Path, tmp_path: Path) -> None:
    """The decoder normalises over the pixels of its coarsest features: here a single one."""
    save_png(tmp_path / "photos" / "icon.png", noise(16, 16))
    save_png(tmp_path / "photos" / "photo.png", noise(40, 40))
    out = tmp_path / "out"
    assert predict([str(trained), str(tmp_path / "photos"), "--out", str(out), "-q"]) == 0
    reason = records_of(out)["icon"]["reason"]
    assert "an image of 16 x 16 pixels is too small for fpn on test_efficientnet" in reason


@pytest.mark.parametrize("tta", ["flip", "scales"])
def test_tiles_are_predicted_with_flips_and_scales_too(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tta: str
) -> None:
    """The mirror image of an image has the mirrored prediction where the tiles lie as mirrored."""
    predictor = cid_ray.load_model(trained)
    monkeypatch.setattr(image_parts, "MAX_WHOLE_PIXELS", 1000)
    pixels = noise(128, 128 + 96)  # two tiles in a row

    def confidence(image: np.ndarray, views: Tta) -> np.ndarray:
        options = image_parts.PredictOptions(tta=views, tile=128)
        parts = image_parts.ImageParts(predictor, options, Image.fromarray(image))
        return np.concatenate([each.confidence for each in parts.rows()])

    plain, averaged = confidence(pixels, NO_TTA), confidence(pixels, Tta.parse(tta))
    assert not np.allclose(plain, averaged)
    if tta == "flip":
        mirrored = confidence(np.ascontiguousarray(pixels[:, ::-1]), Tta.parse(tta))
        assert np.allclose(mirrored[:, ::-1], averaged, atol=1e-5)


def test_names_of_outputs_are_unique(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.png.jpg", "b.png", "c.d.png"):
        save_png(tmp_path / "photos" / name, noise(8, 8))
    names = [item.name for item in list_inputs(str(tmp_path / "photos"), Findings())]
    assert names == ["a.jpg", "a.png", "a.png.jpg", "b", "c.d"]


def test_removed_mask_is_predicted_again_and_another_source_is_refused(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert predict([str(trained), str(photos), "--out", str(out), "-q"]) == 0
    before = (out / "masks" / "a" / "x.png").read_bytes()
    (out / "masks" / "a" / "x.png").unlink()
    assert predict([str(trained), str(photos), "--out", str(out), "-q"]) == 0
    assert (out / "masks" / "a" / "x.png").read_bytes() == before
    with pytest.raises(InputError, match="holds predictions with source "):
        predict([str(trained), str(photos / "a"), "--out", str(out)])


# ---- mistakes ----


def test_sources_that_hold_no_image_say_so(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, message in {
        str(tmp_path / "absent"): "does not exist: give an image",
        str(tmp_path / "empty"): "holds no image",
    }.items():
        with pytest.raises(InputError, match=message):
            predict([str(trained), source, "--out", str(tmp_path / "out")])
    with pytest.raises(InputError, match="--tile is 8, must be at least 64 pixels"):
        predict([str(trained), "demo", "--out", str(tmp_path / "out"), "--tile", "8"])
    assert not (tmp_path / "out").exists()


def test_folder_of_unreadable_images_is_a_failure(trained: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "bad.png").write_text("no image")
    assert predict([str(trained), str(photos), "--out", str(tmp_path / "out"), "-q"]) == 1


def test_images_below_a_folder_are_listed_once(photos: Path) -> None:
    (photos / "link.png").symlink_to(photos / "b.png")
    findings = Findings()
    names = [item.name for item in list_inputs(str(photos), findings)]
    assert names == ["a/x", "b.bmp", "b.png"]
    assert "links to images that are listed already" in findings.describe()[0]
    shutil.rmtree(photos)
