"""Which trials of a shared study count. Pure functions of a study's list of trials.

Several machines may work on one study (`study.storage`). Three things follow:

- A trial whose machine sends no heartbeat is *stale*: Optuna fails it. It does not count. Another
  trial with its hyperparameters (for a repeat also its seed and draw) replaces it: its *retry*.
- Two machines may add that retry at the same time. The first by number counts.
- Two machines may start one trial too many at the same time. The later one is marked a *duplicate*.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STATE_NAMES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}

# How the reason of a retry begins whose trial's node was taken.
PREEMPTED = "preempted"

# User attributes of trials.
RETRIES = "retries"  # after its process died, at most `search.retries`
PREEMPTIONS = "preemptions"  # retries after its node was taken, which have a limit of their own
DUPLICATE = "duplicate"
RETRY_OF = "retry_of"  # the number of the stale trial that this one replaces
FAILURE_REASON = "failure_reason"
WARM_STARTED_FROM = "warm_started_from"  # the run whose hyperparameters this trial starts with


def is_stale(trial: FrozenTrial) -> bool:
    """Whether the trial failed without a reason: Optuna failed it because its heartbeat stopped."""
    explained = {FAILURE_REASON, DUPLICATE} & trial.user_attrs.keys()
    return trial.state == TrialState.FAIL and not explained


def effective_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: no stale ones, no duplicates, one retry per stale trial."""
    found: list[FrozenTrial] = []
    retried: set[int] = set()
    for trial in trials:
        stale_number = trial.user_attrs.get(RETRY_OF)
        second_retry = stale_number in retried
        if not (second_retry or trial.user_attrs.get(DUPLICATE) or is_stale(trial)):
            found.append(trial)
        if stale_number is not None:
            retried.add(stale_number)
    return found


def unretried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The stale trials that have no retry yet."""
    retried = {t.user_attrs.get(RETRY_OF) for t in trials}
    return [t for t in trials if is_stale(t) and t.number not in retried]


def started_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that take up one of the study's places.

    A stale trial without a retry keeps its place, or a new trial could start instead of the retry.
    """
    started = [t for t in effective_trials(trials) if t.state != TrialState.WAITING]
    return started + unretried(trials)


def repeat_index_of(trials: Sequence[FrozenTrial], trial: FrozenTrial | optuna.Trial) -> int:
    """Which repeat a trial is, from 1. A retry has the index of its stale trial."""
    if RETRY_OF in trial.user_attrs:
        return repeat_index_of(trials, trials[trial.user_attrs[RETRY_OF]])
    earlier = trials[: trial.number]
    return 1 + sum(not {DUPLICATE, RETRY_OF} & t.user_attrs.keys() for t in earlier)
