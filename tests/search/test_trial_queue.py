"""Laws of the order of trials: baselines first, ratios alternate, interrupted ones before new ones.

A sampler suggests the same whether the search was killed or not. Trials are simulated; studies,
journal and samplers are the real ones.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import outcome, simulated_config, simulated_record, uninterrupted
from cid_ray.config import Config, InputError, build_config
from cid_ray.search.analysis import winners
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import PROGRESS_PER_S, TrialSpec, progress_interval
from tests.helpers.simulated_studies import (
    RATIOS,
    kill_search,
    next_trial,
    open_search,
    run_trial,
    run_trials,
    search_config,
)

SAMPLERS: list[dict[str, Any]] = [
    {"name": "TPESampler", "args": {"multivariate": True, "group": True, "constant_liar": True}},
    {"name": "GPSampler", "args": {"n_startup_trials": 3}},
    {"name": "RandomSampler", "args": {}},
    {"name": "QMCSampler", "args": {}},
    {"name": "CmaEsSampler", "args": {"n_startup_trials": 2}},
    {"name": "NSGAIISampler", "args": {"population_size": 4}},
]
CID_ONLY: dict[str, Any] = {
    "search.pruner": {"name": "NopPruner"},
    "search.repeats": {"n": 0},
    "search.baselines": [],
}


def complete(search: Search, trial: TrialSpec) -> None:
    """Report the final record only: these laws are about suggestions, not about curves."""
    record = simulated_record(trial.config, trial.name, trial.config.train.steps)
    search.report({"event": "final", **record})


# ---- order ----


def test_next_trial_baselines_come_first_and_ratios_alternate(tmp_path: Path) -> None:
    with open_search(tmp_path, search_config(trials=4)) as search:
        trials = run_trials(search)
    methods = [trial.key.method for trial in trials]
    assert sorted(methods[:6]) == sorted(["supervised", "pool_bn", "mean_teacher"] * 2)
    assert methods[6:] == ["cid"] * 8
    started = Counter[str]()
    for trial in trials:
        started[trial.key.ratio] += 1
        assert abs(started[RATIOS[0]] - started[RATIOS[1]]) <= 1


def test_next_trial_points_to_evaluate_come_first(tmp_path: Path) -> None:
    config = search_config(
        trials=2, **{"search.points_to_evaluate": [{"loss.relation_weight": 0.25}]}
    )
    with open_search(tmp_path, config) as search:
        first = next(trial for trial in run_trials(search) if trial.key.method == "cid")
    assert first.config.loss.relation_weight == 0.25


@pytest.mark.parametrize("finished", [0, 3, 7, 11])
def test_next_trial_after_kill_resumes_running_trials_first(tmp_path: Path, finished: int) -> None:
    config = search_config(trials=4)
    search = open_search(tmp_path, config)
    before = []
    for _ in range(finished):
        trial = next_trial(search)
        run_trial(search, trial)
        before.append(trial)
    interrupted = [next_trial(search), next_trial(search)]
    kill_search(search)

    with open_search(tmp_path, config) as search:
        resumed = [next_trial(search), next_trial(search)]
        assert {trial.name: (trial.params, trial.config) for trial in resumed} == {
            trial.name: (trial.params, trial.config) for trial in interrupted
        }
        for trial in resumed:
            run_trial(search, trial)
        names = [trial.name for trial in [*before, *resumed, *run_trials(search)]]
        assert len(names) == len(set(names)) == 2 * (3 + 4)
        states = Counter(
            t.state.name for study in search.store.studies.values() for t in study.trials
        )
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert states.total() == 14


# ---- samplers ----


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler["name"])
def test_sampler_after_kills_suggests_the_same(tmp_path: Path, sampler: dict[str, Any]) -> None:
    """Every trial is killed once after it started and once after it finished."""
    config = simulated_config(trials=6, **{**CID_ONLY, "search.sampler": sampler})
    expected = outcome(uninterrupted(tmp_path / "uninterrupted", config).store)
    folder = tmp_path / "killed"
    space = check_search(config)
    while True:
        search = open_search(folder, config, space)
        trial = search.next_trial()
        kill_search(search)
        if trial is None:
            break
        search = open_search(folder, config, space)
        again = next_trial(search)
        assert (again.name, again.params) == (trial.name, trial.params)
        complete(search, again)
        kill_search(search)
    found = outcome(search.store)
    states_and_params = {run: trial[:2] for run, trial in found.items()}
    assert states_and_params == {run: trial[:2] for run, trial in expected.items()}
    assert len({json.dumps(params) for _, params, _ in expected.values()}) >= 8


# ---- baselines ----


def test_baseline_with_own_hyperparameters_is_tuned_on_them(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"float": [1e-4, 1e-2], "log": True},
        "loss.conf_thresh": {"float": [0.5, 0.9]},
        "loss.relation_weight": {"float": [0.01, 1.0]},
    }
    changes = {
        "search.space": space,
        "search.baselines": ["supervised", "mean_teacher"],
    }
    store = uninterrupted(tmp_path, simulated_config(trials=5, **{**CID_ONLY, **changes})).store
    searched = {
        key.method: {name for trial in store.trials(key) for name in trial.params}
        for key in store.search_keys("1/8")
    }
    assert searched["supervised"] == {"optim.lr"}
    assert searched["mean_teacher"] == {"optim.lr", "loss.conf_thresh"}
    assert searched["cid"] == set(space)
    assert all(len(store.trials(key)) == 5 for key in store.search_keys())
    methods = {winner.key.method for winner in winners(store)}
    assert methods == {"supervised", "mean_teacher", "cid"}


def test_baselines_have_as_many_trials_as_cid_or_the_number_asked_for(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "search.space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True}},
        "search.baselines": ["supervised", "pool_bn"],
    }
    for baseline_trials, expected in (("same", 3), (2, 2)):
        changes["search.baseline_trials"] = baseline_trials
        config = simulated_config(trials=3, **{**CID_ONLY, **changes})
        store = uninterrupted(tmp_path / str(expected), config).store
        counts = {key.method: len(store.trials(key)) for key in store.search_keys("1/8")}
        assert counts == {"supervised": expected, "pool_bn": expected, "cid": 3}


def test_baseline_without_own_hyperparameters_runs_once(tmp_path: Path) -> None:
    changes = {"search.baselines": ["supervised"]}
    store = uninterrupted(tmp_path, simulated_config(trials=2, **{**CID_ONLY, **changes})).store
    assert [len(store.trials(key)) for key in store.search_keys("1/8")] == [1, 2]


@pytest.mark.parametrize("baselines", [["supervised", "mean_teacher"], []])
def test_supervised_ratios_train_supervised_only_and_repeat_it(
    baselines: list[str], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "search.ratios": ["1/8"],
        "search.supervised_ratios": ["1/2", "1/8", "1/4"],
        "search.baselines": baselines,
        "search.repeats.n": 2,
    }
    with open_search(tmp_path, simulated_config(trials=2, **changes)) as search:
        total = search.total
        names = []
        while (trial := search.next_trial()) is not None:
            names.append(trial.name)
            complete(search, trial)
        assert len(names) == total == search.total
    others = [name for name in names if not name.startswith("1_8")]
    expected = [
        f"1_{n}-supervised-000{end}" for n in (2, 4) for end in ("", "-repeat1", "-repeat2")
    ]
    assert sorted(others) == sorted(expected)
    kept = [name for name in names if name.startswith("1_8")]
    assert len(kept) == len(baselines) * 3 + 2 + 2


# ---- warm starts from ratio to ratio ----


def test_warm_start_ratios_start_with_best_of_fewer_labels(tmp_path: Path) -> None:
    changes = {"search.warm_start_ratios": True, "search.ratios": ["1/4", "1/16", "1/8"]}
    trials = []
    with open_search(tmp_path, simulated_config(trials=5, **{**CID_ONLY, **changes})) as search:
        while (trial := search.next_trial()) is not None:
            trials.append(trial)
            complete(search, trial)
    assert [trial.key.ratio for trial in trials] == ["1/16"] * 5 + ["1/8"] * 5 + ["1/4"] * 5
    for earlier, first in ((trials[:5], trials[5]), (trials[5:10], trials[10])):
        best = max(earlier, key=final_value)
        assert first.params == best.params


def test_warm_start_ratios_warms_baselines_as_it_warms_cid(tmp_path: Path) -> None:
    """Else CID would start better than its rivals."""
    changes = {
        "search.warm_start_ratios": True,
        "search.ratios": ["1/8", "1/16"],
        "search.space": {"optim.lr": {"float": [1e-4, 1e-2], "log": True}},
        "search.baselines": ["supervised"],
    }
    trials = []
    with open_search(tmp_path, simulated_config(trials=3, **{**CID_ONLY, **changes})) as search:
        while (trial := search.next_trial()) is not None:
            trials.append(trial)
            complete(search, trial)
    for method in ("supervised", "cid"):
        few, more = [
            [t for t in trials if (t.key.method, t.key.ratio) == (method, ratio)]
            for ratio in ("1/16", "1/8")
        ]
        assert more[0].params == max(few, key=final_value).params


def final_value(trial: TrialSpec) -> float:
    return float(simulated_record(trial.config, trial.name, 80)["val/miou_teacher"])


def test_stored_state_of_cmaes_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A changed journal could otherwise run any code on the next resume."""
    sampler = {"name": "CmaEsSampler", "args": {"n_startup_trials": 1}}
    out, mark = tmp_path / "run", tmp_path / "code ran"
    config = search_config(trials=30, **{**CID_ONLY, "search.sampler": sampler})
    with open_search(out, config) as search:
        for _ in range(40):
            complete(search, next_trial(search))
    journal = out / "study.journal"
    stored = re.compile(r'("cma:[^"]*optimizer[^"]*":")[0-9a-f]+"')
    text = journal.read_text()
    assert stored.search(text), "the sampler has stored no state"
    code = pickle.dumps(_Touch(str(mark))).hex()
    journal.write_text(stored.sub(rf'\g<1>{code}"', text))
    with open_search(out, config) as search, pytest.raises(InputError, match="no part of it"):
        search.next_trial()
    assert not mark.exists()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


# ---- progress ----


@pytest.mark.parametrize("concurrent", [1, 49, 50, 200, 2000, 100_000])
def test_progress_of_all_trials_together_is_bounded(concurrent: int) -> None:
    interval = progress_interval(2.0, concurrent)
    assert concurrent / interval <= PROGRESS_PER_S
    assert interval >= 2.0
    assert progress_interval(60.0, concurrent) >= 60.0
    if concurrent <= 2 * PROGRESS_PER_S:
        assert interval == 2.0  # a small search is as lively as before


def test_trial_gets_progress_interval_of_its_search_and_keeps_its_fingerprint(
    tmp_path: Path,
) -> None:
    with open_search(tmp_path, search_config(trials=3)) as search:
        alone = next_trial(search)
        search.queue.max_concurrent = 2000
        trial = next_trial(search)
    assert alone.config.train.progress_s == 2.0
    payload = Config.model_validate_json(trial.payload["config"])
    assert payload.train.progress_s == 2000 / PROGRESS_PER_S
    plain = build_config(payload.model_dump(mode="json"), {"train.progress_s": 2.0})
    assert payload.fingerprint() == plain.fingerprint()
