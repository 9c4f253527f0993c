"""A pruning decision is made once: whatever is written or lost around it, asked again it says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cid_ray.search import decide
from cid_ray.search.journal import open_journal

PRUNERS: list[Any] = [
    optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    optuna.pruners.HyperbandPruner(min_resource=1, max_resource=8, reduction_factor=2),
    optuna.pruners.MedianPruner(n_startup_trials=2),
]


class Killed(BaseException):
    pass


def curves(study: optuna.Study, ask: Any, kill_after_writes: int | None = None) -> list[tuple[int, int, bool]]:
    """12 trials over 4 rungs; every decision. `kill_after_writes`: the process dies at that write of each decision."""
    found = []
    for number in range(12):
        trial = study.ask()
        for step in (1, 2, 4, 8):
            trial.report(((number * 7) % 5) * step + number * 0.1, step)
            said = ask(study, trial, step, kill_after_writes)
            found.append((number, step, said))
            if said:
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, 1.0)
    return found


def plain(study: optuna.Study, trial: optuna.Trial, step: int, _: int | None) -> bool:
    return trial.should_prune()


def killed(study: optuna.Study, trial: optuna.Trial, step: int, after: int | None) -> bool:
    """Asks, dies at the n-th write, and asks again as a resumed process would."""
    storage, written = study._storage, 0
    real = storage.set_trial_system_attr

    def write(*args: Any) -> None:
        nonlocal written
        if written == after:
            raise Killed
        written += 1
        real(*args)

    storage.set_trial_system_attr = write  # type: ignore[method-assign]
    try:
        decide.should_prune(study, trial._trial_id, step)
    except Killed:
        pass
    finally:
        storage.set_trial_system_attr = real  # type: ignore[method-assign]
    return decide.should_prune(study, trial._trial_id, step)


@pytest.mark.parametrize("after", [0, 1, 2, None])
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda p: type(p).__name__)
def test_decisions_are_those_of_optuna_wherever_a_kill_falls(tmp_path: Path, pruner: Any, after: int | None) -> None:
    def new(name: str) -> optuna.Study:
        storage = open_journal(tmp_path / name)
        return optuna.create_study(study_name="s", storage=storage, direction="maximize", pruner=pruner)

    expected = curves(new("plain"), plain)
    assert curves(new("killed"), killed, after) == expected
    assert {said for _, _, said in expected} == {True, False}


def test_asking_twice_is_what_optunas_own_pruner_gets_wrong(tmp_path: Path) -> None:
    """Why decide.py exists: the pruner that said "stop" says "go on" when asked again."""
    study = optuna.create_study(direction="maximize", pruner=PRUNERS[0])
    answers = set()
    for value in (5.0, 4.0, 3.0, 2.0):
        trial = study.ask()
        trial.report(value, 1)
        answers.add((trial.should_prune(), trial.should_prune()))
    assert (True, False) in answers
