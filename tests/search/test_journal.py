"""Laws of a run folder and its journal: one process at a time, repaired after a crash, one search.

A search that has changed is refused; what changes no result may change. The journal is the real
one, written by whole simulated searches.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmarks.harness.chaos import Outcome, outcome, simulated_config, uninterrupted
from cid_ray.config import InputError, build_config
from cid_ray.search.journal import JournalLock, open_journal
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.storage.checkpoint_paths import checkpoint_dir
from cid_ray.storage.lock import RunLock
from tests.helpers.simulated_studies import open_queue


def reopen(
    folder: Path, content_hashes: dict[str, str] | None = None, **changes: Any
) -> TrialQueue:
    config = build_config(simulated_config(trials=4).model_dump(mode="json"), changes)
    return open_queue(folder, config, content_hashes)


def search_outcome(store: StudyStore) -> Outcome:
    """The outcome of the trials that search, without repeats."""
    runs = {t.user_attrs.get("run") for key in store.search_keys() for t in store.trials(key)}
    return {run: trial for run, trial in outcome(store).items() if run in runs}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a finished search."""
    uninterrupted(tmp_path, simulated_config(trials=4))
    return tmp_path


# ---- one process at a time ----


@pytest.mark.process
def test_run_lock_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cid_ray.storage.lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="in use by another process"):
            RunLock(tmp_path)
    finally:
        other.kill()
        other.wait()
    with RunLock(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_run_lock_on_file_system_without_locks_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    rule = f"cannot be locked .{os.strerror(number)}.: its file system has no locks.*choose --out"
    with pytest.raises(InputError, match=rule):
        RunLock(tmp_path)


def test_run_lock_of_moved_folder_is_lost_even_if_another_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with RunLock(folder) as lock:
        folder.rename(tmp_path / "moved")
        with pytest.raises(OSError, match="No such file"):
            lock.check()
        folder.mkdir()
        (folder / ".lock").touch()
        with pytest.raises(OSError, match="not the folder"):
            lock.check()


# ---- names that are paths ----


@pytest.mark.parametrize("name", ["../../victim", "/tmp/victim", "..", "a/b", "", "a\\b"])
def test_run_name_that_is_a_path_is_refused_before_anything_is_removed(
    tmp_path: Path, name: str
) -> None:
    """The end of a search removes the checkpoint folders of losers by their names."""
    victim = tmp_path / "victim"
    victim.mkdir()
    config = simulated_config(trials=4)
    uninterrupted(tmp_path / "run", config)
    with pytest.raises(InputError, match="not a plain folder name"):
        checkpoint_dir(config, tmp_path / "run", name)
    journal = tmp_path / "run" / "study.journal"
    old = '"run":"1_8-cid-000"'
    assert old in journal.read_text()
    journal.write_text(journal.read_text().replace(old, f'"run":{json.dumps(name)}'))
    with pytest.raises(InputError, match=r"run names a run .* not a plain folder name"):
        reopen(tmp_path / "run")
    assert victim.is_dir()


def test_finished_trial_without_the_line_that_names_its_run_is_damage(tmp_path: Path) -> None:
    uninterrupted(tmp_path / "run", simulated_config(trials=4))
    journal = tmp_path / "run" / "study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"run":"1_8-cid-001"' not in line]
    assert len(kept) == len(lines) - 1
    journal.write_text("".join(kept))
    with pytest.raises(InputError, match=r"trial 1 of 1/8 cid has ended, and names no run"):
        reopen(tmp_path / "run")
    assert journal.read_text() == "".join(kept)


def test_complete_trial_without_a_value_is_damage(tmp_path: Path) -> None:
    uninterrupted(tmp_path / "run", simulated_config(trials=4))
    journal = tmp_path / "run" / "study.journal"
    changed = re.sub(r'"values":\[[^]]+\]', '"values":[]', journal.read_text(), count=1)
    journal.write_text(changed)
    with pytest.raises(InputError, match=r"trial 0 of .* is complete without a value"):
        reopen(tmp_path / "run")
    assert journal.read_text() == changed


# ---- repaired after a crash ----


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_open_journal_cuts_off_incomplete_last_line_only(finished: Path, cut: int) -> None:
    journal = finished / "study.journal"
    content = journal.read_bytes()
    torn = b'{"op_code":6,"worker_id":"somebody","trial_id":0,"state":1}'[:-cut]
    journal.write_bytes(content + torn)
    reopen(finished)
    assert journal.read_bytes().startswith(content)
    assert all(json.loads(line) for line in journal.read_bytes().splitlines())
    assert (finished / "study.journal.torn").read_bytes() == torn
    assert optuna.load_study(study_name="1/8 cid", storage=open_journal(journal)).trials


def test_open_journal_removes_lock_of_killed_process(finished: Path) -> None:
    lock = finished / "study.journal.lock"
    os.symlink(finished / "study.journal", lock)
    old = time.time() - 60
    os.utime(lock, (old, old), follow_symlinks=False)
    assert reopen(finished).next_trial() is None
    assert not lock.is_symlink()


def test_open_journal_with_relative_path_locks_with_absolute_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's lock is a link to the path as given. A relative one dangles, and the next process
    would wait for a dead one forever.
    """
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    targets = []
    real_symlink = os.symlink

    def symlink(target: str, link: str) -> None:
        targets.append(target)
        real_symlink(target, link)

    monkeypatch.setattr(os, "symlink", symlink)
    optuna.create_study(storage=open_journal(Path("run/study.journal")))
    assert targets and all(os.path.isabs(target) for target in targets)


# ---- the same search ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"search.space": {"loss.relation_weight": {"float": [0.01, 3.0], "log": True}}},
            ["relation_weight", "3.0"],
        ),
        (
            {"search.sampler": {"name": "RandomSampler"}},
            ["search.sampler.name", "TPESampler", "RandomSampler"],
        ),
        ({"train.steps": 96}, ["train.steps was 80, is 96"]),
        ({"loss.style_weight": 0.7}, ["loss.style_weight was 0.01, is 0.7"]),
    ],
)
def test_reopen_changed_search_is_refused_and_names_change(
    finished: Path, changes: dict[str, Any], words: list[str]
) -> None:
    before = (finished / "study.journal").read_bytes()
    with pytest.raises(InputError) as error:
        reopen(finished, **changes)
    assert all(word in str(error.value) for word in [*words, "--warm-start"])
    assert (finished / "study.journal").read_bytes().startswith(before)


def test_reopen_with_another_data_set_is_refused(tmp_path: Path) -> None:
    reopen(tmp_path, {"the data set": "aaa", "the weights file": "w"})
    with pytest.raises(InputError, match='the data set was "aaa", is "bbb"'):
        reopen(tmp_path, {"the data set": "bbb", "the weights file": "w"})


@pytest.mark.parametrize(
    "changes",
    [
        {"search.trials": 6},
        {
            "search.max_concurrent_trials": 3,
            "search.cpus_per_trial": 0.5,
            "search.retries": 0,
            "search.max_preemption_failures": 3,
            "search.max_failed_trials": 9,
        },
        {"data.cache_mb": 1, "data.threads": 7, "data.table": "elsewhere"},
        {"search.repeats": {"n": 3, "top": 2}},
    ],
)
def test_reopen_with_resumable_change_keeps_trials(finished: Path, changes: dict[str, Any]) -> None:
    before = search_outcome(reopen(finished).store)
    after = outcome(reopen(finished, **changes).store)
    assert before
    assert all(after[run] == trial for run, trial in before.items())


def test_extended_search_has_trials_of_search_that_was_longer_at_first(tmp_path: Path) -> None:
    no_repeats: dict[str, Any] = {"search.repeats": {"n": 0}}
    uninterrupted(tmp_path / "a", simulated_config(trials=4, **no_repeats))
    extended = uninterrupted(tmp_path / "a", simulated_config(trials=9, **no_repeats)).store
    longer = uninterrupted(tmp_path / "b", simulated_config(trials=9, **no_repeats)).store
    assert outcome(extended).keys() == outcome(longer).keys()
    assert len(outcome(extended)) == 2 * (3 + 9)


def test_lock_in_a_folder_that_has_vanished_names_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.journal").touch()
    lock = JournalLock(str(folder / "study.journal"), grace_period=3)
    lock.acquire()
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=str(folder)):
        lock.release()
    with pytest.raises(FileNotFoundError, match=str(folder)):
        lock.acquire()
    folder.mkdir()
    with pytest.raises(RuntimeError, match="did not possess lock"):
        lock.release()
