"""Law: a search's estimate of the disk encloses what it really takes, and a disk that cannot hold
it is an InputError. Reference: the sizes of the files of real searches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cid_ray.callbacks.base import Callback
from cid_ray.config import Config, InputError, build_config
from cid_ray.results.records import Record
from cid_ray.search.controller import Decision, Search
from cid_ray.search.disk import PAGE_BYTES, DiskEstimate
from cid_ray.search.plan import plan_search
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.launch import train
from cid_ray.training.loop import make_batches
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.local_search import tiny_search

NO_PRUNER = {"search.pruner": {"name": "NopPruner", "args": {}}}


def changed(table: Path, changes: dict[str, Any]) -> Config:
    return build_config(tiny_search(table).model_dump(mode="json"), changes)


def estimate(table: Path, out: Path | str, changes: dict[str, Any] | None = None) -> DiskEstimate:
    return plan_search(changed(table, changes or {}), out).disk


class PeakSize(Callback):
    """The most bytes that the files of a folder took after any event."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.peak = 0

    def on_trial_result(self, record: Record) -> None:
        files = (Path(parent, name) for parent, _, names in os.walk(self.folder) for name in names)
        self.peak = max(self.peak, sum(file.stat().st_size for file in files))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**NO_PRUNER, "optim.name": "adamw", "train.num_to_keep": 3, "train.checkpoint_steps": 1},
    ],
    ids=["pruned", "three kept of AdamW"],
)
def test_estimate_encloses_the_size_of_a_search(
    changes: dict[str, Any], small_demo: Path, tmp_path: Path
) -> None:
    changes = {**changes, "search.ratios": ["1/8"]}
    config = changed(small_demo, changes)
    disk = estimate(small_demo, tmp_path / "run", changes)
    size = PeakSize(tmp_path / "run")
    with Search.open(config, RunDir(tmp_path / "run")) as search:
        search.add_callback(size)
        while (trial := search.next_trial()) is not None:
            for record in train(trial.config, tmp_path / "run", trial.name, cpus=1):
                if search.report(record) is Decision.STOP:
                    break
    assert disk.at_least < size.peak < disk.at_most
    # What a resumed search has is not needed again.
    again = estimate(small_demo, tmp_path / "run", changes)
    assert 0 < again.used <= size.peak and "of it used already" in str(again)
    if config.search.pruner.name == "NopPruner":
        assert disk.at_most - PAGE_BYTES < 1.2 * size.peak
        assert again.used > 0.9 * size.peak


def test_estimate_of_self_training_holds_a_third_network_in_each_last_checkpoint(
    small_demo: Path, tmp_path: Path
) -> None:
    """Reference: the checkpoints before and after the second round starts."""
    baselines = ("mean_teacher", "self_training")
    two, three = (
        estimate(small_demo, tmp_path, {"search.baselines": [name], "train.num_to_keep": 2})
        for name in baselines
    )
    changes = {"method": "self_training", "train.steps": 2}
    trainer = Trainer(RunSpec(changed(small_demo, changes), tmp_path, num_threads=1))
    sizes = []
    for batch in make_batches(trainer):
        trainer.train_step(batch)
        trainer.save()
        sizes.append(os.path.getsize(trainer.spec.last_checkpoint))
    kept = 2 * 2 + 1  # of one trial at each of two ratios, and the new one before the old one goes
    assert three.at_most - two.at_most == pytest.approx(kept * (sizes[1] - sizes[0]), rel=0.05)
    assert three.at_least == two.at_least


def test_disk_that_cannot_hold_the_search_is_refused(small_demo: Path, small_disk: Path) -> None:
    with pytest.raises(InputError) as refused:
        estimate(small_demo, small_disk / "new" / "run", NO_PRUNER)
    message = str(refused.value)
    for words in ("8 trials", "free", "--out", "search.trials", "train.num_to_keep"):
        assert words in message
    assert not list(small_disk.iterdir())
    elsewhere = {**NO_PRUNER, "train.checkpoint_dir": str(small_disk)}
    with pytest.raises(InputError, match=r"train\.checkpoint_dir, or lower"):
        estimate(small_demo, small_disk.parent / "run", elsewhere)


def test_disk_that_holds_the_search_only_if_trials_are_pruned_is_named(
    small_demo: Path, small_disk: Path
) -> None:
    disk = estimate(small_demo, small_disk / "run", {"search.ratios": ["1/8"]})
    assert disk.may_be_full and not disk.cannot_fit
    assert "it fits only if trials are pruned" in str(disk)


@pytest.mark.parametrize(
    "changes",
    [
        {"search.space": {"optim.name": {"choice": ["sgd", "adamw"]}}},
        {"study.storage": "sqlite:///shared.db", "study.name": "shared"},
    ],
    ids=["other optimizers", "shared study"],
)
def test_estimate_that_is_not_certain_refuses_nothing(
    changes: dict[str, Any], small_demo: Path, small_disk: Path
) -> None:
    disk = estimate(small_demo, small_disk / "run", {**NO_PRUNER, **changes})
    assert disk.at_least == 0 and disk.may_be_full and not disk.cannot_fit


def test_free_space_of_an_object_store_is_unknown(small_demo: Path) -> None:
    disk = estimate(small_demo, "s3://bucket/runs/mine")
    assert disk.free is None and not disk.may_be_full and not disk.cannot_fit
    assert "free space unknown" in str(disk)


MEMORY_SPACE = {
    "loss.relation_kind": {"choice": ["self", "cross"]},
    "loss.labeled_memory": {"int": [0, 512]},
}


def test_estimate_counts_the_largest_searched_memory(small_demo: Path, tmp_path: Path) -> None:
    fixed = {"loss.relation_kind": "cross", "loss.labeled_memory": 512}
    searched = estimate(small_demo, tmp_path, {"search.space": MEMORY_SPACE})
    configured = estimate(small_demo, tmp_path, fixed)
    without = estimate(small_demo, tmp_path)
    assert searched.at_most == configured.at_most > without.at_most


@pytest.mark.parametrize("where", ["search.space", "loss.relation_levels"])
def test_encoder_level_that_is_not_there_is_an_error_before_the_search(
    where: str, small_demo: Path, tmp_path: Path
) -> None:
    levels = ["decoder", "encoder_9"]
    values = {"loss.relation_levels": levels, "loss.relation_weight": {"float": [0.01, 1.0]}}
    changes = {where: values if where == "search.space" else levels}
    with pytest.raises(InputError, match="encoder_9"):
        estimate(small_demo, tmp_path, changes)
