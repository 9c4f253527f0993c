"""Laws of sample pictures: val images at every rung, the newest kept, test images only at the end.

Writing them changes neither weights nor random numbers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cid_ray.config import build_config
from cid_ray.core.iou import iou_scores
from cid_ray.data.sources import open_table
from cid_ray.inference.load import load_model
from cid_ray.results.records import Record, of_event
from cid_ray.training import checkpoint
from cid_ray.training.loop import train
from cid_ray.training.run_spec import RunSpec
from tests.helpers.tiny_run import TINY


def splits_of(record: Record) -> set[str]:
    return {sample["image_id"].partition("/")[0] for sample in record["samples"]}


def test_samples_rungs_show_val_and_only_final_shows_test(small_demo: Path, tmp_path: Path) -> None:
    config = build_config(TINY, {"data.table": str(small_demo)})
    hashes = []
    for record in train(RunSpec(config, tmp_path, num_threads=1)):
        if record["event"] == "rung":
            assert splits_of(record) == {"val"}
            predictions = [tmp_path / sample["prediction"] for sample in record["samples"]]
            hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in predictions])
            sample = record["samples"][0]
            sizes = {
                Image.open(tmp_path / sample[name]).size
                for name in ("image", "label", "prediction")
            }
            assert len(sizes) == 1
            assert set(record["colors"]) == set(record["val/iou"])
    assert len(hashes) == 2 and len(hashes[0]) == 2
    assert hashes[0] != hashes[1], "the newer prediction replaces the former one"
    assert record["event"] == "final" and splits_of(record) == {"test"}
    tested = {one["image_id"] for one in (*record["samples"], *record["worst_samples"])}
    images = list(tmp_path.glob("samples/images/*.png"))
    assert len(images) == 2 * (2 + len(tested)), "each image and label once"
    # of a test image also the confidence
    assert len(list(tmp_path.glob("samples/train/*.png"))) == 2 + 2 * len(tested)


def test_samples_on_or_off_give_equal_weights(small_demo: Path, tmp_path: Path) -> None:
    """Bit for bit, dropout included."""
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    contents = []
    for count in (0, 3):
        changes = {
            "data.table": str(small_demo),
            "model.decoder_options": options,
            "train.num_sample_images": count,
        }
        config = build_config(TINY, changes)
        spec = RunSpec(config, tmp_path / str(count), num_threads=1, score_test=False)
        rungs = of_event(train(spec), "rung")
        assert [bool(record["samples"]) for record in rungs] == [count > 0] * 2
        contents.append(checkpoint.load_checkpoint(spec.last_checkpoint))
    for part in ("student", "teacher", "method"):
        for name, value in contents[0][part].items():
            assert torch.equal(value, contents[1][part][name]), f"{part}.{name}"
    assert torch.equal(contents[0]["rng"], contents[1]["rng"])


def test_end_of_a_run_shows_the_worst_images_and_the_confusions_of_test(
    small_demo: Path, tmp_path: Path
) -> None:
    """Reference: mIoU and confusion matrix of each test image, by the checkpoint's own teacher."""
    config = build_config(TINY, {"data.table": str(small_demo)})
    *_, final = train(RunSpec(config, tmp_path, num_threads=1))
    predictor = load_model(tmp_path / "checkpoints" / "train" / "last.pt", num_threads=1)
    table = open_table(str(small_demo))
    total, by_image = np.zeros((table.num_classes, table.num_classes), int), {}
    for row in table.rows("test").tolist():
        image, mask = table.read(row, mask=True)
        assert mask is not None
        predicted = predictor(image).classes
        matrix = np.zeros_like(total)
        np.add.at(matrix, (mask[mask != 255], predicted[mask != 255]), 1)
        by_image[table.ids(np.array([row]))[0]] = iou_scores(matrix, table.classes)["miou"]
        total += matrix
    worst = sorted(by_image, key=lambda image_id: by_image[image_id])[:2]
    assert [sample["image_id"] for sample in final["worst_samples"]] == worst
    assert [sample["miou"] for sample in final["worst_samples"]] == [by_image[i] for i in worst]
    np.fill_diagonal(total, 0)
    counts = sorted(total[total > 0].tolist(), reverse=True)[:15]
    assert [one["pixels"] for one in final["confusions"]] == counts
    first = final["confusions"][0]
    truth, other = table.classes.index(first["truth"]), table.classes.index(first["predicted"])
    assert total[truth, other] == first["pixels"]
    for sample in final["samples"]:
        grey = np.asarray(Image.open(tmp_path / sample["confidence"]))
        image = Image.open(tmp_path / sample["image"])
        assert np.abs(grey - 255 * predictor(image).confidence).max() <= 1
