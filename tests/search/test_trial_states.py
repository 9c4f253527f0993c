"""Laws of which trials of a shared study count, on lists of trials made by hand."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from cid_ray.search.trial_states import (
    DUPLICATE,
    FAILURE_REASON,
    RETRY_OF,
    effective_trials,
    is_stale,
    repeat_index_of,
    started_trials,
    unretried,
)

COMPLETE = TrialState.COMPLETE
FAIL = TrialState.FAIL
RUNNING = TrialState.RUNNING
WAITING = TrialState.WAITING


def make_trials(*trials: tuple[TrialState, dict[str, Any]]) -> list[FrozenTrial]:
    """Trials in the order of their numbers, from states and user attributes."""
    found = []
    for number, (state, attrs) in enumerate(trials):
        value = 1.0 if state == COMPLETE else None
        trial = optuna.create_trial(state=state, value=value, user_attrs=attrs)
        trial.number = number
        found.append(trial)
    return found


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


@pytest.mark.parametrize(
    ("state", "attrs", "stale"),
    [
        (FAIL, {}, True),
        (FAIL, {FAILURE_REASON: "RuntimeError: no"}, False),
        (FAIL, {DUPLICATE: True}, False),
        (RUNNING, {}, False),
        (COMPLETE, {}, False),
    ],
)
def test_is_stale_failed_trial_without_reason(
    state: TrialState, attrs: dict[str, Any], stale: bool
) -> None:
    (trial,) = make_trials((state, attrs))
    assert is_stale(trial) == stale


def test_effective_trials_leave_out_stale_and_duplicate() -> None:
    trials = make_trials((COMPLETE, {}), (FAIL, {}), (FAIL, {DUPLICATE: True}), (RUNNING, {}))
    assert numbers(effective_trials(trials)) == [0, 3]


def test_effective_trials_of_two_retries_the_first_counts() -> None:
    trials = make_trials((FAIL, {}), (COMPLETE, {RETRY_OF: 0}), (RUNNING, {RETRY_OF: 0}))
    assert numbers(effective_trials(trials)) == [1]


def test_effective_trials_stale_retry_is_replaced_by_its_own_retry() -> None:
    trials = make_trials((FAIL, {}), (FAIL, {RETRY_OF: 0}), (WAITING, {RETRY_OF: 1}))
    assert numbers(effective_trials(trials)) == [2]
    assert numbers(unretried(trials)) == []


def test_started_trials_stale_trial_keeps_its_place_until_retried() -> None:
    stale = make_trials((COMPLETE, {}), (FAIL, {}))
    assert numbers(unretried(stale)) == [1]
    assert len(started_trials(stale)) == 2
    waiting = make_trials((COMPLETE, {}), (FAIL, {}), (WAITING, {RETRY_OF: 1}))
    assert numbers(unretried(waiting)) == []
    assert len(started_trials(waiting)) == 1
    running = make_trials((COMPLETE, {}), (FAIL, {}), (RUNNING, {RETRY_OF: 1}))
    assert len(started_trials(running)) == 2


def test_repeat_index_of_retry_is_that_of_its_stale_trial() -> None:
    trials = make_trials(
        (FAIL, {}),
        (FAIL, {DUPLICATE: True}),
        (COMPLETE, {}),
        (COMPLETE, {RETRY_OF: 0}),
        (RUNNING, {}),
    )
    assert [repeat_index_of(trials, trials[n]) for n in (0, 2, 3, 4)] == [1, 2, 1, 3]
