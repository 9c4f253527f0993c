"""Laws of repeats: the baselines and the best CID trials again, paired by seed and label draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.chaos import simulated_config, simulated_record
from tests.helpers.simulated_studies import open_search


def test_repeats_of_best_and_baselines_are_paired_by_seed_and_draw(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"search.repeats": {"n": 3, "top": 2}}
    config = simulated_config(trials=6, **changes)
    repeats = []
    with open_search(tmp_path, config) as search:
        while (trial := search.next_trial()) is not None:
            if trial.key.repeats_of:
                repeats.append(trial)
            record = simulated_record(trial.config, trial.name, config.train.steps)
            search.report({"event": "final", **record})
        store = search.store
    cid = next(key for key in store.search_keys("1/8") if key.method == "cid")
    best = [trial.user_attrs["run"] for trial in store.ranked(cid)[:2]]
    baselines = {"1_8-supervised-000", "1_8-pool_bn-000", "1_8-mean_teacher-000"}
    repeated = {trial.key.repeats_of for trial in repeats if trial.key.ratio == "1/8"}
    assert repeated == {*baselines, *best}
    for index in (1, 2, 3):
        configs = [trial.config for trial in repeats if trial.repeat_index == index]
        assert {(c.train.seed, c.data.draw) for c in configs} == {(index, index)}
    assert all(trial.score_test for trial in repeats)
    original = {
        t.user_attrs["run"]: t.params for key in store.search_keys() for t in store.trials(key)
    }
    assert all(trial.params == original[trial.key.repeats_of] for trial in repeats)
