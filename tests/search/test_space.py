"""Laws of the search space: samples are what the space says, and every mistake is an InputError.

Reference: the YAML entries themselves; nothing is started.
"""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cid_ray.config import InputError, build_config
from cid_ray.search.space import Space
from tests.helpers.tiny_run import TINY

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


def sample_points(space: Space, count: int = 60) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_suggest_points_stay_in_range_and_conditions_hold() -> None:
    points = sample_points(Space.parse(SPACE))
    assert {point["loss.relation_kind"] for point in points} == {"self", "cross", "class"}
    for point in points:
        compares_images = point["loss.relation_kind"] in ("cross", "class")
        assert ("loss.relation_temperature" in point) == compares_images
        assert ("loss.relation_grid" in point) == (not compares_images)
        assert round(point["loss.conf_thresh"] * 10) in range(5, 10)
        assert point["loss.style_target"] == "symmetric"


def test_suggest_every_point_makes_valid_config() -> None:
    for point in sample_points(Space.parse(SPACE)):
        build_config(TINY, point)


@pytest.mark.parametrize(
    ("entries", "points", "words"),
    [
        (
            {"loss.relation_wieght": {"float": [0, 1]}},
            (),
            ["loss.relation_wieght", "loss.relation_weight"],
        ),
        ({"loss.conf_thresh": {"float": [1, 0]}}, (), ["loss.conf_thresh"]),
        ({"loss.conf_thresh": {"flat": [0, 1]}}, (), ["exactly one of"]),
        ({"loss.pseudo": {"choice": [["hard"]]}}, (), ["plain values"]),
        (
            {"loss.temperature": {"float": [0.1, 1], "when": {"loss.pseudo": "soft"}}},
            (),
            ["loss.pseudo", "come before it"],
        ),
        ({"data.ratio": {"choice": ["1/8", "1/4"]}}, (), ["data.ratio", "compared"]),
        (SPACE, ({"loss.conf_thresh": 2.0},), ["loss.conf_thresh", "outside"]),
        (SPACE, ({"loss.style_weight": 1.0},), ["loss.style_weight", "does not search"]),
    ],
)
def test_parse_mistake_names_key_and_rule(
    entries: dict[str, Any], points: tuple[dict[str, Any], ...], words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        Space.parse(entries, points)
    assert all(word in str(error.value) for word in words)
