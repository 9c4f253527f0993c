"""Law: the trainings of a ladder differ in its count alone, and repeats are paired."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.tiny_run import TINY
from cid_ray.config import Config, InputError, build_config, flatten
from cid_ray.scaling.ladders import LADDERS, Training, ladder_trainings

OF_REPEAT = {"train.seed", "data.draw"}


def config(**scale: Any) -> Config:
    return build_config(TINY, {f"scale.{key}": value for key, value in scale.items()})


def differences(first: Training, second: Training) -> set[str]:
    trees = [flatten(one.config.model_dump(mode="json")) for one in (first, second)]
    return {key for key in trees[0] if trees[0][key] != trees[1][key]}


def test_label_ladder_has_every_count_of_every_method_in_each_repeat() -> None:
    trainings = ladder_trainings(
        config(ratios=["1/16", "12"], methods=["supervised", "cid"], repeats=2), "labels"
    )
    assert [one.name for one in trainings] == [
        "labels-1_16-supervised-0",
        "labels-12-supervised-0",
        "labels-1_16-cid-0",
        "labels-12-cid-0",
        "labels-1_16-supervised-1",
        "labels-12-supervised-1",
        "labels-1_16-cid-1",
        "labels-12-cid-1",
    ]
    assert differences(trainings[0], trainings[1]) == {"data.ratio"}
    assert differences(trainings[0], trainings[2]) == {"method"}
    assert differences(trainings[0], trainings[4]) == OF_REPEAT


def test_pool_ladder_changes_the_pool_alone() -> None:
    trainings = ladder_trainings(config(pool_fractions=[0.5, 1.0], repeats=1), "pool")
    assert differences(*trainings) == {"data.pool_fraction"}


def test_more_repeats_leave_the_first_ones_as_they_were() -> None:
    """So a ladder can be resumed with more of them."""
    few = ladder_trainings(config(repeats=2), "labels")
    many = ladder_trainings(config(repeats=3), "labels")
    assert [one.name for one in many[: len(few)]] == [one.name for one in few]
    for first, second in zip(few, many, strict=False):
        assert differences(first, second) == {"scale.repeats"}


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.04), ("adamw", 0.02)])
def test_batch_ladder_sees_as_many_images_at_each_size(optimizer: str, rate: float) -> None:
    base = build_config(
        TINY, {"scale.batch_sizes": [4, 16], "scale.repeats": 1, "optim.name": optimizer}
    )
    small, large = ladder_trainings(base, "batch")
    assert small.config.optim.lr == 0.01
    assert large.config.optim.lr == pytest.approx(rate)
    assert large.config.data.batch_size_u == 16
    for one in (small, large):
        assert one.config.train.steps * one.config.images_per_step == 12 * 8


@pytest.mark.parametrize("method", ["cid", "supervised"])
def test_batch_that_does_not_divide_the_images_misses_by_half_a_step_at_most(method: str) -> None:
    """30 steps of 4 and 6 images: a batch of 3 has 4 or 5 of the pool, one of 7 has 10 or 11."""
    changes = {"method": method, "train.steps": 30, "data.batch_size_u": 6, "scale.repeats": 1}
    base = build_config(TINY, {**changes, "scale.batch_sizes": [3, 5, 7, 9]})
    total = base.train.steps * base.images_per_step
    for one in ladder_trainings(base, "batch"):
        own = one.config.images_per_step
        assert abs(one.config.train.steps * own - total) <= own / 2


@pytest.mark.parametrize("name", LADDERS)
def test_count_is_in_the_hyperparameters_of_its_records(name: str) -> None:
    settings = {"encoders": ["test_efficientnet", "test_byobnet"], "repeats": 1}
    trainings = ladder_trainings(config(**settings), name)
    counts = [LADDERS[name].counted(one.config)[LADDERS[name].changed] for one in trainings]
    assert len(set(counts)) == len(counts) > 1


@pytest.mark.parametrize(
    ("scale", "name", "message"),
    [
        ({"ratios": []}, "labels", "scale.ratios is empty"),
        ({"encoders": []}, "model", "scale.encoders is empty"),
        ({"methods": ["supervised"]}, "pool", "scale.methods is supervised, which uses no"),
    ],
)
def test_ladder_that_says_nothing_is_refused(
    scale: dict[str, Any], name: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ladder_trainings(config(**scale), name)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"ratios": ["2/1"]}, "scale.ratios"),
        ({"ratios": ["12", "12"]}, "each value once"),
        ({"pool_fractions": [0.0]}, "parts of the pool"),
        ({"workers": [0]}, "positive counts"),
        ({"timed_steps": 1}, "scale.timed_steps"),
    ],
)
def test_wrong_counts_are_refused(scale: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**scale)
