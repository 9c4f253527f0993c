"""Samplers, pruners, a second objective, tuned baselines and warm starts, over simulated trials with real studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import InputError
from cid_ray.home import Home
from cid_ray.results.record import Rows
from cid_ray.search import findings
from cid_ray.search.arms import check_search
from cid_ray.search.studies import Studies
from tests.chaos import outcome, simulated_config, simulated_row, uninterrupted

SAMPLERS = [
    {"name": "TPESampler", "args": {"multivariate": True, "group": True, "constant_liar": True}},
    {"name": "GPSampler", "args": {"n_startup_trials": 3}},
    {"name": "RandomSampler", "args": {}},
    {"name": "QMCSampler", "args": {}},
    {"name": "CmaEsSampler", "args": {"n_startup_trials": 2}},
    {"name": "NSGAIISampler", "args": {"population_size": 4}},
]
PRUNERS = ["SuccessiveHalvingPruner", "HyperbandPruner", "MedianPruner", "NopPruner"]
PLAIN = {"search.pruner": {"name": "NopPruner"}, "search.confirm": {"repeats": 0}, "search.baselines": []}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s["name"])
def test_a_sampler_by_choice_suggests_the_same_whether_killed_or_not(tmp_path: Path, sampler: dict[str, Any]) -> None:
    """A new Studies for every trial is a kill after every trial; only the journal survives."""
    config = simulated_config(trials=6, **{**PLAIN, "search.sampler": sampler})
    (tmp_path / "calm").mkdir()
    calm = outcome(uninterrupted(tmp_path / "calm", config))
    space = check_search(config)
    while (assignment := (book := Studies(Home(tmp_path), config, space)).next()) is not None:
        again = Studies(Home(tmp_path), config, space).next()  # a kill in the middle of the trial
        assert again is not None and (again.name, again.params) == (assignment.name, assignment.params)
        book.complete(assignment.name, simulated_row(assignment.config, assignment.name, 80))
    killed = outcome(Studies(Home(tmp_path), config, space))
    assert {k: v[:2] for k, v in killed.items()} == {k: v[:2] for k, v in calm.items()}
    assert len({json.dumps(params) for _, params, _ in calm.values()}) >= 8


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_pruner_by_choice(tmp_path: Path, pruner: str) -> None:
    config = simulated_config(trials=14, **{**PLAIN, "search.pruner": {"name": pruner}})
    states = [state for state, _, _ in outcome(uninterrupted(tmp_path, config)).values()]
    assert len(states) == 28
    assert ("PRUNED" in states) == (pruner != "NopPruner")


def test_what_a_sampler_cannot_do_is_known_before_the_search() -> None:
    grid = {"search.sampler": {"name": "GridSampler", "args": {"search_space": {"loss.relation_weight": [0.1]}}}}
    with pytest.raises(InputError, match=r"GridSampler.*cannot sample this space"):
        check_search(simulated_config(**grid))


# ---- two objectives ----


def test_two_objectives_cannot_be_pruned_and_say_so() -> None:
    with pytest.raises(InputError, match="NopPruner"):
        check_search(simulated_config(**{"search.cost": "seconds"}))


def test_two_objectives_end_in_a_pareto_front_that_none_beats(tmp_path: Path) -> None:
    config = simulated_config(trials=10, **{**PLAIN, "search.cost": "latency_ms"})
    book = Studies(Home(tmp_path), config, check_search(config))
    seen: dict[str, tuple[float, float]] = {}
    while (assignment := book.next()) is not None:
        row = simulated_row(assignment.config, assignment.name, 80)
        row["latency_ms"] = 1 + 50 * (assignment.config.loss.relation_weight - 0.3) ** 2
        assert not book.rung(assignment.name, row)
        book.complete(assignment.name, row)
        seen[assignment.name] = (row["val/miou_teacher"], row["latency_ms"])
    for found in (r for r in findings.search_rows(book) if r["method"] == "cid"):
        mine = {run: seen[run] for run in seen if run.startswith(found["ratio"].replace("/", "_"))}
        best = {
            run
            for run, (value, cost) in mine.items()
            if not any(v >= value and c <= cost and (v, c) != (value, cost) for v, c in mine.values())
        }
        assert {p["run"] for p in found["pareto"]} == best
        assert found["best"] == max(mine, key=lambda run: mine[run][0])


# ---- tuned baselines ----


def test_baselines_are_tuned_as_often_on_the_settings_that_are_theirs(tmp_path: Path) -> None:
    space = {"optim.lr": {"float": [1e-4, 1e-2], "log": True}, "loss.conf_thresh": {"float": [0.5, 0.9]}}
    space["loss.relation_weight"] = {"float": [0.01, 1.0]}
    config = simulated_config(trials=5, **{**PLAIN, "search.space": space, "search.baseline_trials": 5,
                              "search.baselines": ["supervised", "mean_teacher"]})  # fmt: skip
    book = uninterrupted(tmp_path, config)
    keys = {arm.method: {k for t in book.trials(arm) for k in t.params} for arm in book.search_arms("1/8")}
    assert keys["supervised"] == {"optim.lr"}
    assert keys["mean_teacher"] == {"optim.lr", "loss.conf_thresh"}
    assert keys["cid"] == set(space)
    assert all(len(book.trials(arm)) == 5 for arm in book.search_arms())
    assert {w.arm.method for w in findings.winners(book)} == {"supervised", "mean_teacher", "cid"}


def test_a_baseline_with_nothing_to_tune_is_run_once(tmp_path: Path) -> None:
    config = simulated_config(trials=2, **{**PLAIN, "search.baseline_trials": 5, "search.baselines": ["supervised"]})
    book = uninterrupted(tmp_path, config)
    assert [len(book.trials(arm)) for arm in book.search_arms("1/8")] == [1, 2]


# ---- confirming ----


def test_the_best_and_the_baselines_are_repeated_in_pairs_of_seed_and_draw(tmp_path: Path) -> None:
    config = simulated_config(trials=6, **{"search.confirm": {"repeats": 3, "top": 2}})
    book, configs = Studies(Home(tmp_path), config, check_search(config)), {}
    while (assignment := book.next()) is not None:
        if assignment.arm.confirms:
            configs[assignment.name] = assignment
        book.complete(assignment.name, simulated_row(assignment.config, assignment.name, 80))
    repeated = {a.arm.confirms for a in configs.values() if a.arm.ratio == "1/8"}
    ranked = [t.user_attrs["run"] for t in book.ranked(next(a for a in book.search_arms("1/8") if a.method == "cid"))]
    assert repeated == {"1_8-supervised-000", "1_8-pool_bn-000", "1_8-mean_teacher-000", *ranked[:2]}
    for pair in (1, 2, 3):
        some = [a.config for a in configs.values() if a.marks["pair"] == pair]
        assert {(c.train.seed, c.data.draw) for c in some} == {(pair, pair)}
        assert all(a.test for a in configs.values())
    original = {t.user_attrs["run"]: t.params for arm in book.search_arms() for t in book.trials(arm)}
    assert all(a.params == original[a.arm.confirms] for a in configs.values())


def test_after_confirming_the_best_mean_over_repeats_is_chosen_not_the_luckiest(tmp_path: Path) -> None:
    config = simulated_config(trials=4, **{"search.confirm": {"repeats": 2, "top": 2}, "search.baselines": []})
    book, lucky = Studies(Home(tmp_path), config, check_search(config)), "1_8-cid-001"
    while (assignment := book.next()) is not None:
        row = simulated_row(assignment.config, assignment.name, 80)
        row["val/miou_teacher"] = {lucky: 90.0, "1_8-cid-002": 80.0}.get(assignment.name, 50.0)
        if assignment.arm.confirms:
            row["val/miou_teacher"] = 60.0 if assignment.arm.confirms == lucky else 70.0
        book.complete(assignment.name, row)
    found = {r["ratio"]: r for r in findings.search_rows(book)}
    assert found["1/8"]["best"] == "1_8-cid-002"
    assert set(found["1/8"]["candidates"]) == {lucky, "1_8-cid-002"}


# ---- warm starts ----


def test_the_best_of_fewer_labels_starts_the_next_ratio(tmp_path: Path) -> None:
    config = simulated_config(trials=5, **{**PLAIN, "search.carry_over": True, "search.ratios": ["1/4", "1/16", "1/8"]})
    order, book = [], Studies(Home(tmp_path), config, check_search(config))
    while (assignment := book.next()) is not None:
        order.append(assignment)
        book.complete(assignment.name, simulated_row(assignment.config, assignment.name, 80))
    assert [a.arm.ratio for a in order] == ["1/16"] * 5 + ["1/8"] * 5 + ["1/4"] * 5
    for before, first in ((order[:5], order[5]), (order[5:10], order[10])):
        best = max(before, key=lambda a: simulated_row(a.config, a.name, 80)["val/miou_teacher"])
        assert first.params == best.params


def test_an_earlier_runs_best_settings_are_starting_points(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for number, weight in enumerate((0.2, 0.9, 5.0, 0.4)):
        row = {"event": "final", "run": f"r{number}", "method": "cid", "ratio": "1/8", "val/miou_teacher": number}
        rows.add({**row, "params": {"loss.relation_weight": weight, "loss.style_weight": 0.1}})
    rows.add({**row, "run": "r3-pair1", "confirms": "r3", "params": {"loss.relation_weight": 0.77}})
    space = check_search(simulated_config())
    points, words = findings.warm_start(tmp_path, space, "val/miou_teacher")
    assert points == [{"loss.relation_weight": 0.4}, {"loss.relation_weight": 0.9}]
    assert "loss.style_weight" in words
    with pytest.raises(InputError, match=r"nowhere.*rows\.jsonl"):
        findings.warm_start(tmp_path / "nowhere", space, "val/miou_teacher")


def test_where_the_good_settings_lie_is_told_from_the_best_quarter(tmp_path: Path) -> None:
    book = uninterrupted(tmp_path, simulated_config(trials=12, **PLAIN))
    arm = book.search_arms("1/8")[0]
    ranked = book.ranked(arm)
    top = findings.top_settings(ranked)
    weights = [t.params["loss.relation_weight"] for t in ranked[:3]]
    assert top["loss.relation_weight"] == {"best": weights[0], "low": min(weights), "high": max(weights)}
    assert set(top["loss.relation_kind"]["values"]) == {t.params["loss.relation_kind"] for t in ranked[:3]}
