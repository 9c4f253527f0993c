"""Laws of the two rounds of `self_training`. The references are runs of the methods it is made of:
the first round is `supervised`, the second `mean_teacher` with a teacher that stays as it is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cid_ray
from cid_ray.config import Config, InputError, build_config, images_seen, rounds_of
from cid_ray.core.method import LossTerms
from cid_ray.results.records import of_event
from cid_ray.search.plugins import make_pruner
from cid_ray.search.space import Space
from cid_ray.training import checkpoint
from cid_ray.training.loop import make_batches, train
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import TINY

STEPS = 10
FIRST = 4  # steps of the first round
CHANGES: dict[str, Any] = {
    "method": "self_training",
    "loss.first_round": 0.4,
    "model.decoder_options": {  # with dropout
        "decoder_pyramid_channels": 32,
        "decoder_segmentation_channels": 32,
        "decoder_dropout": 0.2,
    },
    "optim.name": "adamw",
    "optim.lr": 1e-3,
    "train.steps": STEPS,
    "train.rungs": [0.2, 0.4, 1.0],
    "train.num_sample_images": 1,
}
MICRO = {"train.micro_batch_size": 4}  # one part in the first round, two in the second


def make_spec(table: Path, folder: Path, **changes: Any) -> RunSpec:
    config = build_config(TINY, {**CHANGES, "data.table": str(table), **changes})
    return RunSpec(config, folder, num_threads=1)


def train_until(trainer: Trainer, step: int) -> list[LossTerms]:
    """The losses of the steps up to `step`."""
    batches = itertools.islice(make_batches(trainer), step - trainer.step)
    return [trainer.train_step(batch) for batch in batches]


def tensors_of(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of nested states, by its path."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: dict[str, Tensor] = {}
    for key, value in items:
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value.clone()
        elif isinstance(value, dict | list | tuple):
            found |= tensors_of(value, f"{prefix}{key}.")
    return found


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    return tensors_of({name: module.state_dict() for name, module in trainer.modules().items()})


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# ---- what the rounds are ----


@pytest.mark.parametrize("changes", [{}, MICRO, {"train.micro_batch_size": 2}], ids=str)
def test_first_round_is_a_supervised_run_of_its_length(
    small_demo: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Bit for bit: weights, teacher, moments and learning rates."""
    trainer = Trainer(make_spec(small_demo, tmp_path / "one", **changes))
    supervised = {**changes, "method": "supervised", "train.steps": FIRST}
    reference = Trainer(make_spec(small_demo, tmp_path / "other", **supervised))
    for found, expected in zip(
        train_until(trainer, FIRST), train_until(reference, FIRST), strict=True
    ):
        assert found.to_floats() == expected.to_floats()
    assert_equal(state_of(trainer), state_of(reference))
    assert trainer.schedule.get_last_lr() == reference.schedule.get_last_lr()
    assert trainer.batch_index.batch_size == trainer.config.data.batch_size  # of dropout masks


@pytest.mark.parametrize("changes", [{}, MICRO, {"loss.pseudo": "soft"}], ids=str)
def test_second_round_is_mean_teacher_from_the_start_with_the_first_rounds_teacher(
    small_demo: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Ramp and burn-in of the pseudo-labels do not apply."""
    ignored = {"loss.pseudo_ramp": 0.9, "loss.pseudo_burn_in": 0.9}
    trainer = Trainer(make_spec(small_demo, tmp_path / "one", **changes, **ignored))
    train_until(trainer, FIRST)
    first_teacher = trainer.teacher.module
    labels = tensors_of(first_teacher.state_dict())

    mean_teacher = {**changes, "method": "mean_teacher", "train.steps": STEPS - FIRST}
    reference = Trainer(make_spec(small_demo, tmp_path / "other", **mean_teacher))
    if isinstance(reference.predict, torch.nn.Module):
        reference.predict = first_teacher
    else:
        reference.predict.net = first_teacher
    for batch in make_batches(trainer):
        expected = reference.train_step(dict(batch)).to_floats()
        assert trainer.train_step(batch).to_floats() == expected
        assert expected["pseudo"] > 0 and expected["mask_ratio"] > 0
    state = state_of(trainer)
    labeler = {name: state.pop(name) for name in list(state) if name.startswith("labeler.")}
    assert_equal(state, state_of(reference))
    assert_equal(labeler, {f"labeler.{name}": value for name, value in labels.items()})
    assert not first_teacher.training
    assert trainer.batch_index.batch_size == trainer.config.images_per_step
    assert all(weight.grad is None for weight in first_teacher.parameters())


def test_first_round_reads_no_pool_image(small_demo: Path, tmp_path: Path) -> None:
    trainer = Trainer(make_spec(small_demo, tmp_path))
    has_pool = ["image_u" in batch for batch in make_batches(trainer)]
    assert has_pool == [False] * FIRST + [True] * (STEPS - FIRST)
    assert "pool" not in trainer.ids_at(FIRST - 1) and "pool" in trainer.ids_at(FIRST)


# ---- kill, resume, skip ----


@pytest.fixture(scope="module")
def whole(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    trainer = Trainer(make_spec(small_demo, tmp_path_factory.mktemp("whole")))
    train_until(trainer, STEPS)
    return state_of(trainer)


@pytest.mark.parametrize("killed_at", [0, FIRST - 1, FIRST, FIRST + 1, STEPS - 2, STEPS])
def test_run_killed_at_any_step_resumes_bit_for_bit(
    small_demo: Path, tmp_path: Path, whole: dict[str, Tensor], killed_at: int
) -> None:
    spec = make_spec(small_demo, tmp_path)
    trainer = Trainer(spec)
    train_until(trainer, killed_at)
    trainer.save()
    has_labeler = "labeler" in checkpoint.load_checkpoint(spec.last_checkpoint)
    assert has_labeler == (killed_at > FIRST)
    resumed = Trainer(spec)
    assert_equal(state_of(resumed), state_of(trainer))
    train_until(resumed, STEPS)
    assert_equal(state_of(resumed), whole)


def test_checkpoint_of_the_second_round_without_its_labeler_is_refused(
    small_demo: Path, tmp_path: Path
) -> None:
    spec = make_spec(small_demo, tmp_path)
    trainer = Trainer(spec)
    train_until(trainer, FIRST + 1)
    trainer.labeler = None
    trainer.save()
    with pytest.raises(InputError, match=r"does not fit this run \(KeyError: 'labeler'\)"):
        Trainer(spec)


def test_skipped_first_step_of_the_second_round_leaves_the_initial_weights(
    small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(make_spec(small_demo, tmp_path, **{"train.on_nan": "skip"}))
    initial = tensors_of(trainer.student.state_dict())
    train_until(trainer, FIRST)
    method = type(trainer.method)
    forward = method.forward

    def nan_forward(*arguments: Any) -> LossTerms:
        terms = forward(*arguments)
        return replace(terms, total=terms.total * float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(method, "forward", nan_forward)
        train_until(trainer, FIRST + 1)
    assert trainer.health.state.skipped == [FIRST]
    assert_equal(tensors_of(trainer.student.state_dict()), initial)
    assert_equal(tensors_of(trainer.teacher.module.state_dict()), initial)
    train_until(trainer, STEPS)
    trainer.health.check_finite()


# ---- records, checkpoints, warnings ----


def test_records_and_checkpoints_are_those_of_the_current_rounds_networks(
    small_demo: Path, tmp_path: Path
) -> None:
    spec = make_spec(small_demo, tmp_path)
    records = list(train(spec))
    rungs = of_event(records, "rung")
    labeled, both = 4, 8  # images of a step
    expected = [(2, 2 * labeled), (4, 4 * labeled), (10, 4 * labeled + 6 * both)]
    assert [(rung["step"], rung["images_seen"]) for rung in rungs] == expected
    assert [rung["losses"]["mask_ratio"] > 0 for rung in rungs] == [False, False, True]
    final = records[-1]
    best = max(rungs, key=lambda rung: rung["val/miou_teacher"])
    assert final["best/step"] == best["step"]
    last = checkpoint.load_checkpoint(spec.last_checkpoint)
    networks = {"student", "teacher", "labeler"}
    assert networks <= last.keys()
    kept = checkpoint.load_checkpoint(spec.best_checkpoint)
    assert networks & kept.keys() == {"student", "teacher"}
    assert kept["extra"]["step"] == best["step"]
    for network in ("student", "teacher"):
        loaded = cid_ray.load_model(spec.last_checkpoint, network=network)
        assert_equal(tensors_of(loaded.net.state_dict()), tensors_of(last[network]))


@pytest.mark.parametrize(("patience", "warns"), [(STEPS - FIRST, True), (STEPS - FIRST + 1, False)])
def test_warning_of_no_pseudo_labels_counts_the_second_round_only(
    small_demo: Path, tmp_path: Path, patience: int, warns: bool
) -> None:
    """The last record before the second round is one of step 2."""
    changes = {
        "loss.conf_thresh": 1.0,
        "train.warn_no_pseudo_steps": patience,
        "train.rungs": [0.2, 1.0],
    }
    final = list(train(make_spec(small_demo, tmp_path, **changes)))[-1]
    assert bool(final["warnings"]) == warns
    if warns:
        assert f"between steps {FIRST} and {STEPS}" in final["warnings"][0]


# ---- configuration and search ----


def make_config(**changes: Any) -> Config:
    return build_config({}, {"method": "self_training", **changes})


@pytest.mark.parametrize(
    ("steps", "fraction", "first"), [(100, 0.5, 50), (30, 0.7, 21), (3, 0.5, 2), (2, 0.01, 1)]
)
def test_first_round_ends_where_a_rung_of_its_fraction_is(
    steps: int, fraction: float, first: int
) -> None:
    changes = {"train.steps": steps, "loss.first_round": fraction, "train.rungs": [fraction, 1.0]}
    config = make_config(**changes)
    parts = rounds_of(config)
    assert [(part.start, part.stop) for part in parts] == [(0, first), (first, steps)]
    assert config.train.rung_steps[0] == first
    assert len(rounds_of(make_config(**changes, method="cid"))) == 1


@pytest.mark.parametrize(("steps", "fraction"), [(1, 0.5), (10, 0.95)])
def test_second_round_without_a_step_is_refused(steps: int, fraction: float) -> None:
    rule = rf"loss.first_round is {fraction}, must leave .*train.steps={steps}; lower it, or raise"
    with pytest.raises(InputError, match=rule):
        make_config(**{"train.steps": steps, "loss.first_round": fraction})
    make_config(**{"train.steps": steps, "loss.first_round": fraction}, method="cid")


def test_images_seen_are_those_that_each_round_reads() -> None:
    config = make_config(**{"train.steps": 10, "data.batch_size": 4, "data.batch_size_u": 6})
    assert [images_seen(config, step) for step in (0, 3, 5, 6, 10)] == [0, 12, 20, 30, 70]
    cid = make_config(**{"data.batch_size": 4, "data.batch_size_u": 6}, method="cid")
    assert images_seen(cid, 7) == 70


def test_pruner_of_a_study_counts_the_images_of_both_rounds() -> None:
    changes = {
        "train.steps": 12,
        "train.rungs": [0.75, 1.0],
        "search.pruner": {"name": "HyperbandPruner", "args": {}},
    }
    pruner: Any = make_pruner(make_config(**changes, method="cid"), "self_training")
    assert (pruner._min_resource, pruner._max_resource) == (6 * 8 + 3 * 16, 6 * 8 + 6 * 16)


def test_search_varies_what_self_training_reads() -> None:
    values = {"float": [0.1, 0.9]}
    keys = ("loss.first_round", "loss.conf_thresh", "loss.pseudo_weight", "loss.pseudo_ramp")
    space = Space.parse({key: values for key in (*keys, "loss.style_weight", "optim.lr")})
    of_method = {
        method: {parameter.key for parameter in space.of_method(method).parameters}
        for method in (
            "supervised",
            "pool_bn",
            "mean_teacher",
            "unimatch_v2",
            "self_training",
            "cid",
        )
    }
    assert of_method["self_training"] == {*keys[:3], "optim.lr"}
    readers = [method for method, found in of_method.items() if "loss.first_round" in found]
    assert readers == ["self_training"]
