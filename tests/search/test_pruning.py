"""Laws of pruning: decisions are those of Optuna's own pruners, wherever a kill falls.

References: `optuna.Trial.should_prune` on a study that is never killed, and plain Optuna studies
with the same curves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from benchmarks.harness.chaos import outcome, simulated_config, uninterrupted
from cid_ray.search import _optuna_compat
from cid_ray.search.journal import open_journal
from cid_ray.search.pruning import should_prune
from cid_ray.search.trial_spec import StudyKey
from tests.helpers.simulated_studies import (
    METRIC,
    RUNG_STEPS,
    STEPS,
    open_search,
    run_trial,
    rung_record,
    search_config,
)

PRUNERS: list[Any] = [
    optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    optuna.pruners.HyperbandPruner(min_resource=1, max_resource=8, reduction_factor=2),
    optuna.pruners.MedianPruner(n_startup_trials=2),
]
PRUNER_NAMES = ["SuccessiveHalvingPruner", "HyperbandPruner", "MedianPruner", "NopPruner"]
CID_ONLY: dict[str, Any] = {"search.repeats": {"n": 0}, "search.baselines": []}

Ask = Callable[[optuna.Study, optuna.Trial, int], bool]


class KilledError(BaseException):
    """The process dies here."""


# ---- one decision ----


def decisions(study: optuna.Study, ask: Ask) -> list[tuple[int, int, bool]]:
    """12 trials over 4 rungs: trial, step and decision."""
    found = []
    for number in range(12):
        trial = study.ask()
        for step in (1, 2, 4, 8):
            trial.report(((number * 7) % 5) * step + number * 0.1, step)
            prune = ask(study, trial, step)
            found.append((number, step, prune))
            if prune:
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, 1.0)
    return found


def ask_optuna(study: optuna.Study, trial: optuna.Trial, step: int) -> bool:
    return trial.should_prune()


def ask_with_kill(after_writes: int | None) -> Ask:
    """Asks, dies at that write of the decision, and asks again as a resumed process does."""

    def ask(study: optuna.Study, trial: optuna.Trial, step: int) -> bool:
        storage = _optuna_compat.storage_of(study)
        real_write = storage.set_trial_system_attr
        written = 0

        def write(*arguments: Any) -> None:
            nonlocal written
            if written == after_writes:
                raise KilledError
            written += 1
            real_write(*arguments)

        storage.set_trial_system_attr = write
        try:
            should_prune(study, _optuna_compat.trial_id(trial), step)
        except KilledError:
            pass
        finally:
            storage.set_trial_system_attr = real_write
        return should_prune(study, _optuna_compat.trial_id(trial), step)

    return ask


@pytest.mark.parametrize("after_writes", [0, 1, 2, None])
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda pruner: type(pruner).__name__)
def test_should_prune_after_kill_repeats_decision_of_optuna(
    tmp_path: Path, pruner: Any, after_writes: int | None
) -> None:
    def new_study(name: str) -> optuna.Study:
        storage = open_journal(tmp_path / name)
        return optuna.create_study(
            study_name="s", storage=storage, direction="maximize", pruner=pruner
        )

    expected = decisions(new_study("optuna"), ask_optuna)
    assert decisions(new_study("killed"), ask_with_kill(after_writes)) == expected
    assert {prune for _, _, prune in expected} == {True, False}


def test_optuna_pruner_asked_twice_contradicts_itself() -> None:
    """Why pruning.py exists: Optuna's pruner says "prune", and "continue" when asked again."""
    study = optuna.create_study(direction="maximize", pruner=PRUNERS[0])
    answers = set()
    for value in (5.0, 4.0, 3.0, 2.0):
        trial = study.ask()
        trial.report(value, 1)
        answers.add((trial.should_prune(), trial.should_prune()))
    assert (True, False) in answers


# ---- a search ----


def test_search_prunes_as_optuna_study_with_same_curves(tmp_path: Path) -> None:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=80, reduction_factor=3)
    reference = optuna.create_study(direction="maximize", pruner=pruner)
    seen = set()
    with open_search(tmp_path, search_config(trials=12)) as search:
        while (trial := search.next_trial()) is not None:
            if trial.key != StudyKey("1/8", "cid"):
                run_trial(search, trial)
                continue
            expected = reference_state(reference, [rung_record(trial, s) for s in RUNG_STEPS])
            assert run_trial(search, trial) == expected
            seen.add(expected)
    assert seen == {"pruned", "complete"}


def reference_state(study: optuna.Study, records: list[dict[str, Any]]) -> str:
    """How a plain Optuna study ends a trial with these rungs."""
    trial = study.ask()
    for record in records:
        trial.report(record[METRIC], record["images_seen"])
        if record["step"] < STEPS and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return "pruned"
    study.tell(trial, 1.0)
    return "complete"


def test_search_first_trial_of_study_is_not_pruned(tmp_path: Path) -> None:
    first: dict[StudyKey, str] = {}
    with open_search(tmp_path, search_config()) as search:
        while (trial := search.next_trial()) is not None:
            first.setdefault(trial.key, run_trial(search, trial))
    assert set(first.values()) == {"complete"}


@pytest.mark.parametrize("name", PRUNER_NAMES)
def test_search_pruner_by_name_prunes_unless_nop(tmp_path: Path, name: str) -> None:
    config = simulated_config(trials=14, **{**CID_ONLY, "search.pruner": {"name": name}})
    trials = outcome(uninterrupted(tmp_path, config).store).values()
    states = [state for state, _, _ in trials]
    assert len(states) == 28
    assert ("PRUNED" in states) == (name != "NopPruner")
