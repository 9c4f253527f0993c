"""Laws of training on images of five bands: it runs, resumes bit for bit, shows pictures, refuses a
network of other channels in one line, and learns a class that one band alone shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cid_ray.config import Config, InputError, build_config
from cid_ray.core.model import Segmenter
from cid_ray.data.table import Table
from cid_ray.results.records import Record
from cid_ray.training import checkpoint
from cid_ray.training.loop import train
from cid_ray.training.preflight import check_data, describe_run
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.band_files import field_scene, write_fields, write_tiff
from tests.helpers.image_tables import prepare_folder
from tests.helpers.tiny_run import TINY, real_data


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten labeled images and four of the pool, of five bands in 16 bits."""
    root = write_fields(tmp_path_factory.mktemp("fields"), 10)
    for index in range(4):
        write_tiff(root / "pool" / f"{index}.tif", field_scene(100 + index)[0])
    return root


def import_fields(root: Path, out: Path, *options: str) -> Table:
    (out / "images").parent.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        (out / name).symlink_to(root / name)
    pool = ("--unlabeled", root / "pool") if (root / "pool").exists() else ()
    classes = ("--classes", root / "classes.txt")
    return prepare_folder(out, *classes, *pool, *options, classes=None)


@pytest.fixture(scope="module")
def five(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return import_fields(fields, tmp_path_factory.mktemp("five") / "t")


@pytest.fixture(scope="module")
def four(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return import_fields(fields, tmp_path_factory.mktemp("four") / "t", "--bands", "1,2,3,4")


def config_of(table: Table, **changes: Any) -> Config:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return build_config(TINY, {"data.table": str(table.folder), "data.ratio": "1/2", **dotted})


def last_state(spec: RunSpec) -> dict[str, Any]:
    return checkpoint.load_checkpoint(spec.last_checkpoint)


@pytest.mark.parametrize("method", ["supervised", "cid"])
def test_run_on_five_bands_ends_with_scores_and_pictures(
    five: Table, tmp_path: Path, method: str
) -> None:
    config = config_of(five, method=method, model__in_channels=5)
    final = list(train(RunSpec(config, tmp_path, num_threads=1)))[-1]
    assert final["event"] == "final" and final["test/miou"] is not None
    for sample in final["samples"]:
        row = five.ids(np.arange(len(five))).index(sample["image_id"])
        expected = np.asarray(five.read(row, mask=False)[0])[..., :3]
        with Image.open(tmp_path / sample["image"]) as shown:
            np.testing.assert_array_equal(np.asarray(shown), expected)
    state = last_state(RunSpec(config, tmp_path))["teacher"]
    stats = torch.tensor(five.band_stats)
    for name, values in zip(("mean", "std"), stats, strict=True):
        assert torch.equal(state[name].flatten(), values), "no average moves them"


def test_resumed_run_on_bands_repeats_the_uninterrupted_one(five: Table, tmp_path: Path) -> None:
    config = config_of(five, method="cid")
    whole, cut = (RunSpec(config, tmp_path / name, num_threads=1) for name in ("a", "b"))
    list(train(whole))
    for record in train(cut):
        if record["event"] == "rung":
            assert record["step"] == 6
            break
    list(train(cut))
    states = [last_state(spec)["student"] for spec in (whole, cut)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_channels_come_from_the_table_by_default(five: Table, four: Table) -> None:
    for table, channels in ((five, 5), (four, 4)):
        preflight = check_data(config_of(table))
        assert f"3 classes, {channels} channels" in describe_run(config_of(table), preflight)[0]


@pytest.mark.parametrize("wrong", [3, 4, 16])
def test_channels_that_are_not_the_tables_are_refused(
    five: Table, tmp_path: Path, wrong: int
) -> None:
    config = config_of(five, model__in_channels=wrong)
    starts = (lambda: check_data(config), lambda: Trainer(RunSpec(config, tmp_path)))
    for start in starts:
        with pytest.raises(InputError) as caught:
            start()
        message = str(caught.value)
        assert f"model.in_channels is {wrong}, " in message and "have 5 channels" in message
        assert "leave model.in_channels out" in message and "--bands" in message
        assert "\n" not in message


def test_table_in_rgb_takes_three_channels(small_demo: Path) -> None:
    demo = Table(small_demo)
    check_data(config_of(demo, model__in_channels=3))
    with pytest.raises(InputError, match=r"model\.in_channels is 5, .* have 3 channels"):
        check_data(config_of(demo, model__in_channels=5))


def test_equal_channels_said_or_not_are_one_run(five: Table) -> None:
    said, unsaid = (config_of(five, **each) for each in ({"model__in_channels": 5}, {}))
    assert check_data(said).fingerprint(said) == check_data(unsaid).fingerprint(unsaid)


def test_resume_with_other_bands_is_refused_in_one_line(
    five: Table, four: Table, tmp_path: Path
) -> None:
    Trainer(RunSpec(config_of(five), tmp_path, num_threads=1)).save()
    with pytest.raises(InputError, match="belongs to another run: its data is") as caught:
        Trainer(RunSpec(config_of(four), tmp_path, num_threads=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [3, 4])
def test_state_of_other_channels_is_not_alike(channels: int) -> None:
    def network(count: int) -> Segmenter:
        model = build_config(TINY).model
        return Segmenter(model, 3, None if count == 3 else ([1.0] * count, [1.0] * count))

    saved = network(channels).state_dict()
    with pytest.raises((ValueError, KeyError), match="student"):
        checkpoint.check_alike("student", saved, network(5).state_dict())


# ---- what bands are for ----


def crop_iou(table: Table, out: Path, **changes: Any) -> float:
    """Teacher's val IoU, in percent, of the class that band 4 alone shows."""
    config = config_of(
        table,
        method="supervised",
        data__ratio="1/1",
        data__crop_size=64,
        data__scale_range=[0.8, 1.25],
        data__batch_size=8,
        train__num_sample_images=0,
        **changes,
    )
    final: Record = list(train(RunSpec(config, out)))[-1]
    return float(final["val/iou_teacher"]["crop"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_class_of_band_4_is_learned_with_it_and_not_without(tmp_path: Path) -> None:
    root = write_fields(tmp_path / "fields", 30)
    visible = import_fields(root, tmp_path / "rgb", "--bands", "1,2,3")
    every = import_fields(root, tmp_path / "all")
    changes = {"train__steps": 80, "optim__lr": 0.02}
    without = crop_iou(visible, tmp_path / "run-rgb", **changes)
    with_all = crop_iou(every, tmp_path / "run-all", model__in_channels=5, **changes)
    print(f"val IoU of crop: {with_all:.1f} with five bands, {without:.1f} with bands 1,2,3")
    assert with_all > 70 and with_all > without + 30


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(900)
def test_class_of_band_4_is_learned_from_published_weights(tmp_path: Path) -> None:
    weights = real_data("weights", "tf_efficientnet_lite0.safetensors")
    root = write_fields(tmp_path / "fields", 30)
    every = import_fields(root, tmp_path / "all")
    changes: dict[str, Any] = {
        "model__encoder": "tf_efficientnet_lite0",
        "model__weights": str(weights),
        "train__steps": 40,
        "optim__lr": 0.02,
    }
    found = crop_iou(every, tmp_path / "run", **changes)
    print(f"val IoU of crop: {found:.1f} from published weights")
    assert found > 70
