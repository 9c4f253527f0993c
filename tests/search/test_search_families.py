"""Laws of the benchmark of searches at two ratios: a landscape agrees with what was recorded, and
every contender searches both ratios. Reference: curves of a known function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contenders import TENTHS, Ours
from benchmarks.family_contenders import (
    Exchanged,
    chance_to_beat,
    family_contenders,
    standardised,
)
from benchmarks.landscape import Landscape, read_family
from benchmarks.record_curves import random_points
from benchmarks.search_efficiency import MARGIN, replay, shipped
from benchmarks.search_families import CAP, arrival
from cid_ray.search.space import Space

RATIOS = ("1/16", "1/8")
BASE = shipped("demo", *RATIOS)
SPACE = Space.parse(BASE.search.space)
IMAGES = [160, 320, 640]
NAMES = list(family_contenders(BASE))


def final_score(params: Mapping[str, Any], ratio: str) -> float:
    """Best at a learning rate of 1e-3; more labels are three points better."""
    distance = np.log10(params["optim.lr"]) + 3
    return float(40 - 10 * distance**2 + 3 * RATIOS.index(ratio))


def write_curves(path: Path, numbers: Mapping[str, range]) -> None:
    points = random_points(BASE, 30)
    lines = []
    for ratio in RATIOS:
        for number in numbers[ratio]:
            score = final_score(points[number], ratio)
            line = {
                "ratio": ratio,
                "number": number,
                "seed": 0,
                "params": points[number],
                "images": IMAGES,
                "miou": [score * (1 - 0.4 * (1 - i / 640)) for i in IMAGES],
            }
            lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def lands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Landscape]:
    path = tmp_path_factory.mktemp("curves") / "curves.jsonl"
    write_curves(path, {"1/16": range(30), "1/8": range(2, 28)})
    return read_family(path, SPACE, RATIOS)


# ---- landscapes ----


def test_landscape_returns_recorded_points(lands: dict[str, Landscape]) -> None:
    for land in lands.values():
        np.testing.assert_allclose(land.expected(land.params), land.miou, atol=0.3)


@pytest.mark.parametrize("ratio", RATIOS)
def test_landscape_finds_the_best_between_recorded_points(
    lands: dict[str, Landscape], ratio: str
) -> None:
    land = lands[ratio]
    assert land.best == pytest.approx(final_score({"optim.lr": 1e-3}, ratio), abs=0.5)
    assert np.log10(land.best_point["optim.lr"]) == pytest.approx(-3, abs=0.2)


def test_family_has_the_points_that_all_ratios_have(lands: dict[str, Landscape]) -> None:
    few, more = lands.values()
    assert few.params == more.params == random_points(BASE, 30)[2:28]
    np.testing.assert_allclose(more.miou[:, -1] - few.miou[:, -1], 3)


# ---- contenders ----


@pytest.mark.parametrize("name", NAMES)
def test_contender_searches_both_ratios(name: str, lands: dict[str, Landscape]) -> None:
    found = replay(family_contenders(BASE)[name](0), lands, cap=24, last=24)
    assert all(found["chosen"][ratio] for ratio in RATIOS)
    assert found["trials_started"] >= 20


def test_budget_of_a_ratio_alone_is_part_of_all(lands: dict[str, Landscape]) -> None:
    found = replay(Ours(BASE, 1), lands, cap=30, last=0)
    assert found["reached"]
    arrivals = arrival(found["finished"], lands, MARGIN)
    assert max(spent for spent, _ in arrivals.values()) == found["reached"][0]
    assert all(0 < own <= spent for spent, own in arrivals.values())
    wider = arrival(found["finished"], lands, 2 * MARGIN)
    assert all(wider[ratio] <= arrivals[ratio] for ratio in RATIOS)
    assert set(arrival(found["finished"], lands, -100).values()) == {(CAP, CAP)}


def finish(contender: Ours, handle: str, value: float) -> None:
    rungs = len(contender.fractions)
    for rung in range(1, rungs + 1):
        stopped = contender.report(handle, rung, rung, value)
        assert not stopped


def test_new_best_point_is_the_next_one_of_the_other_ratio() -> None:
    contender = Exchanged(BASE, 0)
    started = [contender.start() for _ in RATIOS]
    first, second = [trial for trial in started if trial is not None]
    assert (first[1], second[1]) == RATIOS
    finish(contender, first[0], 30.0)
    following = [trial for trial in (contender.start(), contender.start()) if trial is not None]
    assert [point == first[2] for _, _, point in following] == [False, True]
    assert following[1][1] == second[1]
    finish(contender, following[0][0], 29.0)  # worse than its ratio's best: not passed on
    following = [trial for trial in (contender.start(), contender.start()) if trial is not None]
    assert following[1][2] not in (first[2], second[2])


def test_scores_of_all_ratios_are_on_one_scale() -> None:
    contender = Ours(BASE, 0)
    for value in (30.0, 50.0, 34.0, 51.0, 35.0, 52.0):  # the ratios by turns
        trial = contender.start()
        assert trial is not None
        for rung in range(1, len(contender.fractions) + 1):
            if contender.report(trial[0], rung, rung, value):
                break
    for study in contender.store.studies.values():
        found = standardised(study.trials)
        firsts = [t.intermediate_values[1] for t in found]
        assert len(found) == 3
        assert (np.mean(firsts), np.std(firsts)) == pytest.approx((0, 1))
        assert np.argsort(firsts).tolist() == [0, 1, 2]


# ---- extrapolation ----


def rising_curve(final: float) -> list[float]:
    fractions = np.array(TENTHS)
    return [float(v) for v in final - 8 * (np.exp(-4 * fractions) - np.exp(-4.0))]


@pytest.mark.parametrize("rungs", [5, 8])
def test_extrapolation_knows_a_hopeless_curve_and_a_sure_one(rungs: int) -> None:
    seen = TENTHS[:rungs], rising_curve(30)[:rungs]
    assert chance_to_beat(36, *seen) < 0.05
    assert chance_to_beat(24, *seen) > 0.95
    chances = [chance_to_beat(best, *seen) for best in (28, 29, 30, 31, 32)]
    assert chances == sorted(chances, reverse=True)


def test_extrapolation_doubts_less_the_more_it_has_seen() -> None:
    chances = [chance_to_beat(32, TENTHS[:n], rising_curve(30)[:n]) for n in (3, 5, 8)]
    assert chances == sorted(chances, reverse=True)
