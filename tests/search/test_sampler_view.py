"""Laws of what the sampler sees of a large study.

Reference: Optuna's TPESampler on the whole study.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from cid_ray.search import _optuna_compat, sampler_view
from cid_ray.search.journal import open_journal
from cid_ray.search.sampler_view import SamplerView, seen_trials, study_for_sampler

SEEN = (30, 10)  # finished and running trials in these tests


@pytest.fixture
def small_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_view, "SEEN_FINISHED", SEEN[0])
    monkeypatch.setattr(sampler_view, "SEEN_RUNNING", SEEN[1])


def study_of(path: Path, finished: int, running: int = 0) -> optuna.Study:
    """Trials with values that go up and down; every third is pruned, the last ones run."""
    study = optuna.create_study(storage=open_journal(path), direction="maximize", study_name="s")
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    for number in range(finished + running):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("kind", ("a", "b"))
        trial.report((number * 37) % 101, 1 + number % 4)
        if number >= finished:
            continue
        if number % 3:
            study.tell(trial, (number * 53) % 97)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return study


def suggested(study: optuna.Study) -> dict[str, Any]:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("kind", ("a", "b"))
    return dict(trial.params)


def tpe() -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=5, multivariate=True, group=True, constant_liar=True)


@pytest.mark.usefixtures("small_view")
def test_suggestion_of_study_that_is_seen_whole_is_optunas_own(tmp_path: Path) -> None:
    view = study_for_sampler(study_of(tmp_path / "one", *SEEN), tpe())
    assert isinstance(_optuna_compat.storage_of(view), SamplerView)
    whole = study_of(tmp_path / "two", *SEEN)
    whole.sampler = tpe()
    assert suggested(view) == suggested(whole)


@pytest.mark.usefixtures("small_view")
@pytest.mark.parametrize("size", [100, 300])
def test_large_study_is_seen_by_its_best_and_newest(tmp_path: Path, size: int) -> None:
    study = study_of(tmp_path / "j", size, 40)
    storage: Any = _optuna_compat.storage_of(study)
    seen = seen_trials(storage.index(_optuna_compat.study_id(study)), SEEN[0])
    numbers = [trial.number for trial in seen]
    assert numbers == sorted(set(numbers))
    assert len(seen) <= SEEN[0] + SEEN[1] + 2 * sampler_view.SEEN_BEST
    assert set(range(size - SEEN[0], size)) <= set(numbers)
    assert set(range(size + 40 - SEEN[1], size + 40)) <= set(numbers)

    def best(trials: list[FrozenTrial]) -> list[int]:
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        complete.sort(key=lambda trial: -trial.values[0])
        return [trial.number for trial in complete[: sampler_view.SEEN_BEST]]

    assert best(seen) == best(study.get_trials())


@pytest.mark.usefixtures("small_view")
def test_view_hands_out_enqueued_trials_and_waits_for_startup(tmp_path: Path) -> None:
    study = study_of(tmp_path / "j", 100)
    study.enqueue_trial({"x": 0.25, "kind": "b"})
    view = study_for_sampler(study, tpe(), n_startup=80)
    assert suggested(view) == {"x": 0.25, "kind": "b"}
    finished = view.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(finished) >= 80


@pytest.mark.parametrize("name", ["RandomSampler", "NSGAIISampler", "GridSampler"])
def test_other_samplers_see_the_study_itself(tmp_path: Path, name: str) -> None:
    args: Any = {"search_space": {"x": [0, 1]}} if name == "GridSampler" else {}
    study = study_of(tmp_path / "j", 5)
    view = study_for_sampler(study, getattr(optuna.samplers, name)(**args))
    assert _optuna_compat.storage_of(view) is _optuna_compat.storage_of(study)


def test_sampler_with_two_objectives_sees_the_study_itself(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "j")
    study = optuna.create_study(storage=storage, directions=["maximize", "minimize"])
    assert _optuna_compat.storage_of(study_for_sampler(study, tpe())) is storage
