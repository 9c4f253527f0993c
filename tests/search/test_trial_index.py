"""Laws of the trials in memory: they answer as Optuna's journal does, and read nothing again.

References: the journal itself, and Optuna's SuccessiveHalvingPruner.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cid_ray.search import _optuna_compat, journal_file
from cid_ray.search.halving import HalvingPruner
from cid_ray.search.journal import open_journal
from cid_ray.search.pruning import should_prune
from tests.helpers.simulated_studies import next_trial, open_search, run_trial, search_config

STATES: list[Any] = [None, (TrialState.WAITING,), (TrialState.COMPLETE, TrialState.PRUNED)]
MANY = 60  # trials; a few are as many as needed to see growth


def random_study(path: Path, seed: int) -> optuna.Study:
    """Trials that run, wait, completed, failed and were pruned, in mixed order."""
    chance = random.Random(seed)
    study = optuna.create_study(storage=open_journal(path), direction="maximize", study_name="s")
    open_trials = []
    for number in range(40):
        if chance.random() < 0.2:
            study.enqueue_trial({"x": chance.random()})
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        open_trials.append(trial)
        if number % 3 == 0:
            continue
        trial = open_trials.pop(chance.randrange(len(open_trials)))
        state = chance.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
        if chance.random() < 0.8:
            value = math.nan if chance.random() < 0.2 else chance.randrange(5)
            trial.report(value, chance.randrange(1, 4))
        done = float(chance.randrange(5)) if state == TrialState.COMPLETE else None
        study.tell(trial, done, state=state)
    study.enqueue_trial({"x": 0.5})
    return study


@pytest.mark.parametrize("seed", range(3))
def test_indexed_storage_answers_as_its_journal(tmp_path: Path, seed: int) -> None:
    study = random_study(tmp_path / "j", seed)
    storage: Any = _optuna_compat.storage_of(study)
    study_id = _optuna_compat.study_id(study)
    journal = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "j"))
    )
    for states in STATES:
        expected = journal.get_all_trials(study_id, deepcopy=False, states=states)
        assert repr(storage.get_all_trials(study_id, states=states)) == repr(expected)
        assert storage.get_n_trials(study_id, states) == len(expected)
    for trial in journal.get_all_trials(study_id):
        trial_id = _optuna_compat.trial_id(trial)
        assert repr(storage.get_trial(trial_id)) == repr(trial)
        found = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        assert found == trial_id
    with pytest.raises(KeyError):
        storage.get_trial_id_from_study_id_trial_number(study_id, 1000)


@pytest.mark.parametrize("seed", range(3))
def test_trial_index_ranks_as_sorting_does(tmp_path: Path, seed: int) -> None:
    study = random_study(tmp_path / "j", seed)
    storage: Any = _optuna_compat.storage_of(study)
    index = storage.index(_optuna_compat.study_id(study))
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    expected = sorted(complete, key=lambda trial: (-trial.values[0], trial.number))
    best = index.best(TrialState.COMPLETE)
    assert [t.number for t in best] == [t.number for t in expected] != []
    assert index.best(TrialState.COMPLETE, 2) == best[:2]
    pruned = index.best(TrialState.PRUNED)
    lengths = [trial.last_step or 0 for trial in pruned]
    assert lengths == sorted(lengths, reverse=True)


# ---- the cost of a trial ----


def test_cost_of_a_trial_does_not_grow_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither scans of the journal nor waits for the disk; both are counted, not timed."""
    config = search_config(MANY, **{"search.baselines": [], "search.sampler.name": "TPESampler"})
    counts = Counter[str]()
    per_trial = []
    with open_search(tmp_path, config) as search:
        count_calls(monkeypatch, search.store.storage.storage, "get_all_trials", counts)
        count_calls(monkeypatch, search.store.storage.storage, "_write_log", counts)
        count_calls(monkeypatch, journal_file.os, "fsync", counts)
        while (trial := search.next_trial()) is not None:
            handed_out = counts["fsync"]
            run_trial(search, trial)
            per_trial.append((handed_out, dict(counts)))
            counts.clear()
    assert len(per_trial) == 2 * MANY
    assert {handed_out for handed_out, _ in per_trial} == {1}  # one wait for the suggestion
    assert all("get_all_trials" not in found for _, found in per_trial)
    early, late = per_trial[: MANY // 2], per_trial[-MANY // 2 :]
    for call in ("fsync", "_write_log"):
        assert max(found[call] for _, found in late) <= max(found[call] for _, found in early)


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, counts: Counter[str]
) -> None:
    real = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def test_one_step_waits_for_the_disk_also_when_it_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counter[str]()
    storage = open_journal(tmp_path / "j")
    study = optuna.create_study(storage=storage, study_name="s")
    count_calls(monkeypatch, journal_file.os, "fsync", counts)

    def two_in_one_step() -> None:
        with storage.one_step():
            study.ask()
            with storage.one_step():
                study.ask()
            assert not counts
            assert len((tmp_path / "j").read_text().splitlines()) == 3  # a kill would lose none
            raise ValueError("within")

    with pytest.raises(ValueError, match="within"):
        two_in_one_step()
    assert counts == {"fsync": 1}
    with storage.one_step():
        pass
    assert counts == {"fsync": 1}  # nothing was written
    study.ask()
    assert counts == {"fsync": 2}


# ---- halving ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("args", [(1, 2, 0, 0), (1, 3, 0, 0), (2, 2, 1, 0), (1, 4, 0, 3)])
def test_halving_decides_as_optuna_and_looks_at_no_trial(
    tmp_path: Path, args: tuple[int, int, int, int], seed: int
) -> None:
    names = ("min_resource", "reduction_factor", "min_early_stopping_rate", "bootstrap_count")
    arguments: Any = dict(zip(names, args, strict=True))
    ours = optuna.create_study(
        storage=open_journal(tmp_path / "j"),
        direction="maximize",
        pruner=HalvingPruner(**arguments),
        sampler=optuna.samplers.RandomSampler(),
    )
    optunas = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(**arguments)
    )
    storage: Any = _optuna_compat.storage_of(ours)
    chance = random.Random(seed)
    found = []
    for _ in range(30):
        mine, theirs = ours.ask(), optunas.ask()
        scans = storage.get_all_trials
        for step in (1, 2, 3, 4, 8, 16):
            value = math.nan if chance.random() < 0.03 else chance.randrange(6) + step
            mine.report(value, step)
            theirs.report(value, step)
            storage.get_all_trials = None  # an attempt to read all trials raises
            prune = should_prune(ours, _optuna_compat.trial_id(mine), step)
            storage.get_all_trials = scans
            assert prune == theirs.should_prune()
            found.append(prune)
            if prune:
                break
        state = TrialState.PRUNED if prune else TrialState.FAIL
        ours.tell(mine, state=state)
        optunas.tell(theirs, state=state)
    assert {True, False} == set(found)


def test_search_continues_study_that_was_halved_by_another_process(tmp_path: Path) -> None:
    config = search_config(MANY, **{"search.baselines": []})
    for _ in range(4):
        with open_search(tmp_path, config) as search:
            for _ in range(6):
                run_trial(search, next_trial(search))
            scores = [dict(search.store.storage.index(id_).rungs) for id_ in (0, 1)]
        again = open_journal(tmp_path / "study.journal")
        assert [dict(again.index(id_).rungs) for id_ in (0, 1)] == scores
    assert all(len(rungs) == 2 for rungs in scores)
