"""Laws of the studies: one per ratio and method, each trial with its state, curve and reason.

The journal is real, trials are simulated.
"""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import TrialState

from cid_ray.search.journal import open_journal
from cid_ray.search.trial_states import FAILURE_REASON
from tests.helpers.simulated_studies import (
    RATIOS,
    failed_record,
    next_trial,
    open_search,
    run_trials,
    search_config,
)

METHODS = ("supervised", "pool_bn", "mean_teacher", "cid")


def test_journal_has_one_study_per_ratio_and_method(tmp_path: Path) -> None:
    with open_search(tmp_path, search_config(trials=3)) as search:
        run_trials(search)
    storage = open_journal(tmp_path / "study.journal")
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    assert names == {f"{ratio} {method}" for ratio in RATIOS for method in METHODS}


def test_baseline_trial_has_base_hyperparameters(tmp_path: Path) -> None:
    config = search_config(trials=1)
    with open_search(tmp_path, config) as search:
        for trial in run_trials(search):
            assert trial.config.method == trial.key.method
            assert trial.config.data.ratio == trial.key.ratio
            if trial.key.method != "cid":
                assert trial.config.loss == config.loss


def test_pruned_trial_keeps_its_curve(tmp_path: Path) -> None:
    with open_search(tmp_path, search_config(trials=12)) as search:
        run_trials(search)
        store = search.store
        pruned = [t for key in store.studies for t in store.trials(key, TrialState.PRUNED)]
    assert pruned
    for trial in pruned:
        steps = list(trial.intermediate_values)
        assert steps and steps == [80, 240][: len(steps)]


def test_failed_trial_has_its_reason_and_others_finish(tmp_path: Path) -> None:
    with open_search(tmp_path, search_config(trials=2)) as search:
        broken = next_trial(search)
        search.report(failed_record(broken, "FloatingPointError: the loss is nan"))
        run_trials(search)
        store = search.store
        failed = [t for key in store.studies for t in store.trials(key, TrialState.FAIL)]
        assert len(store.finished()) == search.total
    reasons = [trial.user_attrs[FAILURE_REASON] for trial in failed]
    assert reasons == ["FloatingPointError: the loss is nan"]
