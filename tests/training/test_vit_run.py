"""Laws of a run of DPT on a ViT whose patch is 14 pixels: its losses are finite, it resumes bit for
bit, `evaluate` finds the number of `train`, an image larger than a tile is predicted whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cid_ray
from cid_ray import evaluate
from cid_ray.config import Config, build_config
from cid_ray.inference.tiles import predict_by_tiles
from cid_ray.results.records import Record, of_event
from cid_ray.training import checkpoint
from cid_ray.training.loop import train
from cid_ray.training.run_spec import RunSpec
from tests.helpers.tiny_run import SMALL_DPT, TINY

DPT: dict[str, Any] = {
    "decoder": "dpt",
    "encoder": "eva02_tiny_patch14_224",
    "decoder_options": SMALL_DPT,
}


@pytest.fixture(scope="module")
def config(small_demo: Path) -> Config:
    changes = {"data.table": str(small_demo), "data.crop_size": [44, 60], "train.steps": 4}
    return build_config({**TINY, "model": DPT}, changes)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """The last checkpoint of a finished run, and its records."""
    spec = RunSpec(config, tmp_path_factory.mktemp("vit"), num_threads=1)
    records = list(train(spec))
    return Path(spec.last_checkpoint), records


def test_every_loss_of_a_step_is_finite_and_at_work(run: tuple[Path, list[Record]]) -> None:
    rungs = of_event(run[1], "rung")
    assert [record["step"] for record in rungs] == [2, 4]
    for record in rungs:
        losses = record["losses"]
        for name in ("total", "sup", "pseudo", "relation", "style"):
            assert losses[name] is not None and losses[name] > 0, name


def test_resumed_run_on_a_vit_repeats_the_uninterrupted_one(
    config: Config, run: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    cut = RunSpec(config, tmp_path, num_threads=1)
    for record in train(cut):
        if record["event"] == "rung":
            assert record["step"] == 2
            break
    list(train(cut))
    whole = checkpoint.load_checkpoint(run[0])
    resumed = checkpoint.load_checkpoint(cut.last_checkpoint)
    for part in ("student", "teacher", "method"):
        for name, value in whole[part].items():
            torch.testing.assert_close(value, resumed[part][name], rtol=0, atol=0, msg=name)


def test_evaluate_finds_the_number_of_train(run: tuple[Path, list[Record]], tmp_path: Path) -> None:
    (final,) = of_event(run[1], "final")
    assert evaluate.main([str(run[0]), "-q", "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["miou"] == final["test/miou_teacher"]


def test_image_of_several_tiles_is_predicted_by_what_each_tile_says(
    run: tuple[Path, list[Record]],
) -> None:
    predictor = cid_ray.load_model(run[0], num_threads=1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (90, 131, 3), dtype=np.uint8)

    def tile(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        return predictor.tile_probabilities(pixels[top:bottom, left:right])

    found = torch.zeros(len(predictor.classes), 90, 131)
    for block in predict_by_tiles(tile, (90, 131), 50, 16):
        rows, columns = block.probabilities.shape[1:]
        area = (slice(block.top, block.top + rows), slice(block.left, block.left + columns))
        found[:, *area] = block.probabilities
    torch.testing.assert_close(found.sum(0), torch.ones(90, 131))
    torch.testing.assert_close(found[:, :34, :34], tile(0, 50, 0, 50)[:, :34, :34])
    whole = predictor(pixels)
    assert whole.classes.shape == (90, 131) and np.isfinite(whole.probabilities).all()
