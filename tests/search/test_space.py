"""Laws of the search space: what it draws is what it says, and every mistake is known before Ray starts."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cid_ray.config import InputError, override
from cid_ray.search.arms import check_search
from cid_ray.search.space import Space
from tests.support import TINY

SPACE: dict[str, Any] = {
    "loss.relation_kind": {"choice": ["self", "cross", "class"]},
    "loss.relation_temperature": {
        "float": [0.05, 0.5],
        "log": True,
        "when": {"loss.relation_kind": ["cross", "class"]},
    },
    "loss.relation_grid": {"int": [1, 4], "when": {"loss.relation_kind": "self"}},
    "loss.conf_thresh": {"float": [0.5, 0.9], "step": 0.1},
    "loss.style_target": "symmetric",
}


def draws(space: Space, count: int = 60) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_draws_stay_inside_and_conditions_hold() -> None:
    points = draws(Space.parse(SPACE))
    assert {p["loss.relation_kind"] for p in points} == {"self", "cross", "class"}
    for point in points:
        matched = point["loss.relation_kind"] in ("cross", "class")
        assert ("loss.relation_temperature" in point) == matched
        assert ("loss.relation_grid" in point) == (not matched)
        assert round(point["loss.conf_thresh"] * 10) in range(5, 10)
        assert point["loss.style_target"] == "symmetric"


def test_every_point_is_a_valid_config() -> None:
    for point in draws(Space.parse(SPACE)):
        override(TINY, point)


@pytest.mark.parametrize(
    ("entries", "start", "words"),
    [
        ({"loss.relation_wieght": {"float": [0, 1]}}, (), ["loss.relation_wieght", "loss.relation_weight"]),
        ({"loss.conf_thresh": {"float": [1, 0]}}, (), ["loss.conf_thresh"]),
        ({"loss.conf_thresh": {"flat": [0, 1]}}, (), ["exactly one of"]),
        ({"loss.pseudo": {"choice": [["hard"]]}}, (), ["plain values"]),
        ({"loss.temperature": {"float": [0.1, 1], "when": {"loss.pseudo": "soft"}}}, (), ["loss.pseudo", "above it"]),
        ({"data.ratio": {"choice": ["1/8", "1/4"]}}, (), ["data.ratio", "compared"]),
        (SPACE, ({"loss.conf_thresh": 2.0},), ["loss.conf_thresh", "outside"]),
        (SPACE, ({"loss.style_weight": 1.0},), ["loss.style_weight", "does not search"]),
    ],
)
def test_a_mistake_names_the_key_and_the_rule(entries: Any, start: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        Space.parse(entries, start)
    assert all(word in str(error.value) for word in words)


def test_a_point_that_is_no_config_is_found_before_anything_starts() -> None:
    config = override(TINY, {"search.space": {"loss.conf_thresh": {"float": [0.5, 1.5]}}})
    with pytest.raises(InputError, match=r"loss\.conf_thresh"):
        check_search(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search.sampler.name": "TPESampl"}, ["TPESampl", "TPESampler"]),
        ({"search.pruner.name": "Hyperban"}, ["HyperbandPruner"]),
        (
            {"search.pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factr": 3}}},
            ["reduction_factr", "reduction_factor"],
        ),
        ({"search.pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 1}}}, ["reduction_factor"]),
    ],
)
def test_unknown_optuna_names_and_arguments_name_the_nearest(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        check_search(override({**TINY, "search": {"space": {"loss.relation_weight": {"float": [0.0, 1.0]}}}}, change))
    assert all(word in str(error.value) for word in words)
