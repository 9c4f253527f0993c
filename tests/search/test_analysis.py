"""Laws of what a search found: best hyperparameters, Pareto front, the chosen run.

Studies are real, trials simulated. References are computed here from the reported values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import simulated_config, simulated_record, uninterrupted
from cid_ray.config import InputError
from cid_ray.results.records import RecordWriter
from cid_ray.search import analysis
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Decision
from tests.helpers import records as made_up
from tests.helpers.simulated_studies import METRIC, open_search

CID_ONLY: dict[str, Any] = {
    "search.pruner": {"name": "NopPruner"},
    "search.repeats": {"n": 0},
    "search.baselines": [],
}


def test_best_hyperparameters_are_those_of_best_quarter(tmp_path: Path) -> None:
    store = uninterrupted(tmp_path, simulated_config(trials=12, **CID_ONLY)).store
    ranked = store.ranked(store.search_keys("1/8")[0])
    best = analysis.best_hyperparameters(ranked)
    weights = [trial.params["loss.relation_weight"] for trial in ranked[:3]]
    kinds = {trial.params["loss.relation_kind"] for trial in ranked[:3]}
    assert best["loss.relation_weight"] == {
        "best": weights[0],
        "low": min(weights),
        "high": max(weights),
    }
    assert set(best["loss.relation_kind"]["values"]) == kinds


def test_pareto_front_has_every_trial_that_no_other_beats(tmp_path: Path) -> None:
    config = simulated_config(trials=10, **{**CID_ONLY, "search.second_objective": "latency_ms"})
    scores: dict[str, dict[str, tuple[float, float]]] = {}  # ratio -> run -> value, cost
    with open_search(tmp_path, config) as search:
        while (trial := search.next_trial()) is not None:
            record = simulated_record(trial.config, trial.name, 80)
            weight = trial.config.loss.relation_weight
            record["latency_ms"] = 1 + 50 * (weight - 0.3) ** 2
            assert search.report({"event": "rung", **record}) is Decision.CONTINUE
            search.report({"event": "final", **record})
            of_ratio = scores.setdefault(trial.key.ratio, {})
            of_ratio[trial.name] = (record[METRIC], record["latency_ms"])
        records = analysis.search_records(search.store)
    for record in records:
        of_ratio = scores[record["ratio"]]
        front = {run for run in of_ratio if not is_beaten(of_ratio[run], list(of_ratio.values()))}
        assert {point["run"] for point in record["pareto"]} == front
        assert record["best"] == max(of_ratio, key=lambda run: of_ratio[run][0])


def is_beaten(score: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    """Whether another trial has no lower value and no higher cost."""
    value, cost = score
    return any(v >= value and c <= cost and (v, c) != score for v, c in others)


def test_chosen_run_after_repeats_has_best_mean_not_best_trial(tmp_path: Path) -> None:
    lucky = "1_8-cid-001"
    steady = "1_8-cid-002"
    changes: dict[str, Any] = {
        "search.repeats": {"n": 2, "top": 2},
        "search.baselines": [],
    }
    with open_search(tmp_path, simulated_config(trials=4, **changes)) as search:
        while (trial := search.next_trial()) is not None:
            record = simulated_record(trial.config, trial.name, 80)
            record[METRIC] = {lucky: 90.0, steady: 80.0}.get(trial.name, 50.0)
            if trial.key.repeats_of:
                record[METRIC] = 60.0 if trial.key.repeats_of == lucky else 70.0
            search.report({"event": "final", **record})
        records = {record["ratio"]: record for record in analysis.search_records(search.store)}
    assert records["1/8"]["best"] == steady
    assert set(records["1/8"]["candidates"]) == {lucky, steady}


# ---- warm starts from an earlier run ----


def test_warm_start_points_are_best_hyperparameters_of_earlier_run(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for number, weight in enumerate((0.2, 0.9, 5.0, 0.4)):
        params = {"loss.relation_weight": weight, "loss.style_weight": 0.1}
        writer.append(made_up.untested_final("cid", 8, number, number, params=params))
    for record in made_up.repeat("cid", 8, 3, 1, 3.0):
        writer.append({**record, "params": {"loss.relation_weight": 0.77}})
    space = check_search(simulated_config())
    points, message = analysis.warm_start_points(tmp_path, space, METRIC)
    assert points == [{"loss.relation_weight": 0.4}, {"loss.relation_weight": 0.9}]
    assert "loss.style_weight" in message


def test_warm_start_points_without_records_name_the_file(tmp_path: Path) -> None:
    space = check_search(simulated_config())
    with pytest.raises(InputError, match=r"nowhere.*records\.jsonl"):
        analysis.warm_start_points(tmp_path / "nowhere", space, METRIC)
