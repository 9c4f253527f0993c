"""The trials of one study, sorted as a search asks for them: by state, and the best ones.

Updated by the trial that has changed, so that no question reads all trials again.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Mapping
from heapq import merge
from typing import Any

from optuna.trial import FrozenTrial, TrialState

RUNG_PREFIX = "completed_rung_"  # Optuna's attributes of a trial that has reached a halving rung
RUNG_KEY = RUNG_PREFIX + "{rung}"


class TrialIndex:
    """The trials of a study that maximizes.

    Attributes:
        trials: all of them, by number.
        numbers: state -> numbers of the trials in it, in their order.
        rungs: attribute of a halving rung -> the scores of the trials there, sorted.
    """

    def __init__(self, trials: Iterable[FrozenTrial] = ()):
        self.trials: list[FrozenTrial] = []
        self.numbers: dict[TrialState, list[int]] = {state: [] for state in TrialState}
        self.rungs: dict[str, list[float]] = {}
        # state -> [(key, number)], best first
        self._ranks: dict[TrialState, list[tuple[Any, int]]] = {
            TrialState.COMPLETE: [],
            TrialState.PRUNED: [],
        }
        for trial in trials:
            self.put(trial)

    def put(self, trial: FrozenTrial) -> None:
        """Add a new trial, or replace the one with its number by what it is now."""
        number = trial.number
        if number == len(self.trials):
            self.trials.append(trial)
            self._add_rungs(trial, {})
        else:
            former = self.trials[number]
            self.trials[number] = trial
            self._add_rungs(trial, former.system_attrs)
            if former.state == trial.state:
                return  # a finished trial does not change
            in_state = self.numbers[former.state]
            del in_state[bisect_left(in_state, number)]
        insort(self.numbers[trial.state], number)
        if trial.state in self._ranks:
            insort(self._ranks[trial.state], (_rank_key(trial), number))

    def _add_rungs(self, trial: FrozenTrial, known: Mapping[str, Any]) -> None:
        for key in trial.system_attrs.keys() - known.keys():
            if key.startswith(RUNG_PREFIX):
                insort(self.rungs.setdefault(key, []), trial.system_attrs[key])

    def count(self, states: Container[TrialState] | None = None) -> int:
        """How many trials are in these states, or in all."""
        if states is None:
            return len(self.trials)
        return sum(len(numbers) for state, numbers in self.numbers.items() if state in states)

    def in_states(self, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials in these states, or all, in the order of their numbers."""
        if states is None:
            return list(self.trials)
        found = [numbers for state, numbers in self.numbers.items() if state in states]
        return [self.trials[number] for number in merge(*found)]

    def best(self, state: TrialState, count: int | None = None) -> list[FrozenTrial]:
        """The best complete or pruned trials: by value, pruned ones by their length first."""
        return [self.trials[number] for _, number in self._ranks[state][:count]]


def _rank_key(trial: FrozenTrial) -> Any:
    """As TPESampler ranks trials: the smallest key is the best."""
    if trial.state == TrialState.COMPLETE:
        return -trial.values[0]
    if not trial.intermediate_values:
        return (1.0, 0.0)
    step, value = max(trial.intermediate_values.items())
    return (-float(step), math.inf if math.isnan(value) else -value)
