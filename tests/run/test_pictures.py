"""Laws of pictures: val images at every rung, the newest kept, held-out images at the end alone; nothing else moves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from PIL import Image

from cid_ray.config import override
from cid_ray.run import state
from cid_ray.run.loop import train
from cid_ray.run.run import Job
from tests.support import TINY


def test_rungs_show_val_images_and_only_the_end_shows_test_images(small_demo: Path, tmp_path: Path) -> None:
    job = Job(override(TINY, {"data.table": str(small_demo)}), tmp_path, threads=1)
    seen = []
    for row in train(job):
        if row["event"] == "rung":
            assert {sample["image_id"].partition("/")[0] for sample in row["samples"]} == {"val"}
            seen.append([hashlib.sha256((tmp_path / s["prediction"]).read_bytes()).hexdigest() for s in row["samples"]])
            pictures = [Image.open(tmp_path / row["samples"][0][name]) for name in ("image", "label", "prediction")]
            assert len({picture.size for picture in pictures}) == 1
            assert set(row["colors"]) == set(row["val/iou"])
    assert len(seen) == 2 and len(seen[0]) == 2 and seen[0] != seen[1]  # the newer prediction is another one
    assert {sample["image_id"].partition("/")[0] for sample in row["samples"]} == {"test"}
    assert len(list(tmp_path.glob("samples/images/*.png"))) == 2 * 4  # each image and label once
    assert len(list(tmp_path.glob("samples/train/*.png"))) == 4


def test_pictures_change_no_weight(small_demo: Path, tmp_path: Path) -> None:
    """Bit for bit, dropout included."""
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    contents = []
    for samples in (0, 3):
        changes = {"data.table": str(small_demo), "model.decoder_options": options, "train.samples": samples}
        job = Job(override(TINY, changes), tmp_path / str(samples), threads=1, test=False)
        assert [row["samples"] != [] for row in train(job) if row["event"] == "rung"] == [samples > 0] * 2
        contents.append(state.load(job.last))
    for part in ("student", "teacher", "method"):
        for name, value in contents[0][part].items():
            assert torch.equal(value, contents[1][part][name]), f"{part}.{name}"
    assert torch.equal(contents[0]["rng"], contents[1]["rng"])
