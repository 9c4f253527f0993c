"""The run's folder and its journal: held by one, mended after a crash, refused when the search has changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from cid_ray.config import InputError, override
from cid_ray.home import Home
from cid_ray.search.arms import check_search
from cid_ray.search.journal import Hold, open_journal
from cid_ray.search.studies import Studies
from tests.chaos import outcome, simulated_config, uninterrupted


def reopened(folder: Path, contents: dict[str, str] | None = None, **changes: Any) -> Studies:
    config = override(simulated_config(trials=4).model_dump(mode="json"), changes)
    return Studies(Home(folder), config, check_search(config), contents or {})


@pytest.fixture
def done(tmp_path: Path) -> Path:
    uninterrupted(tmp_path, simulated_config(trials=4))
    return tmp_path


def test_a_folder_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from cid_ray.search.journal import Hold\n"
    code += "hold = Hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="in use by another search"):
        Hold(tmp_path)
    other.kill()
    other.wait()
    with Hold(tmp_path) as hold:
        hold.check()


def test_a_folder_that_was_moved_away_is_noticed_even_if_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with Hold(tmp_path / "run") as hold:
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(OSError, match="No such file"):
            hold.check()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".hold").touch()
        with pytest.raises(OSError, match="not the folder"):
            hold.check()


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_line_cut_short_is_mended_and_only_what_it_said_is_lost(done: Path, cut: int) -> None:
    journal = done / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    reopened(done)
    lines = [line for line in whole.splitlines(keepends=True)[:-1]]
    assert journal.read_bytes().startswith(b"".join(lines))
    assert optuna.load_study(study_name="1/8 cid", storage=open_journal(journal)).trials


def test_the_lock_of_a_killed_process_does_not_hold_up_the_next(done: Path) -> None:
    lock = done / "study.journal.lock"
    os.symlink(done / "study.journal", lock)
    old = time.time() - 60
    os.utime(lock, (old, old), follow_symlinks=False)
    assert reopened(done).next() is None
    assert not lock.is_symlink()


def test_a_journal_named_by_a_relative_path_has_a_lock_that_finds_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's lock is a link to the path as given: relative, it dangles, and a dead one is waited for for ever."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    storage = open_journal(Path("run/study.journal"))
    assert os.path.isabs(storage._backend._lock._lock_target_file)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search.space": {"loss.relation_weight": {"float": [0.01, 3.0], "log": True}}}, ["relation_weight", "3.0"]),
        ({"search.sampler": {"name": "RandomSampler"}}, ["search.sampler.name", "TPESampler", "RandomSampler"]),
        ({"train.steps": 96}, ["train.steps was 80, is 96"]),
        ({"loss.style_weight": 0.7}, ["loss.style_weight was 0.1, is 0.7"]),
    ],
)
def test_a_changed_search_is_refused_and_what_changed_is_named(
    done: Path, changes: dict[str, Any], words: list[str]
) -> None:
    before = (done / "study.journal").read_bytes()
    with pytest.raises(InputError) as error:
        reopened(done, **changes)
    assert all(word in str(error.value) for word in [*words, "--warm-start"])
    assert (done / "study.journal").read_bytes().startswith(before)


def test_another_data_set_or_weights_file_is_refused(tmp_path: Path) -> None:
    reopened(tmp_path, {"the data set": "aaa", "the weights file": "w"})
    with pytest.raises(InputError, match='the data set was "aaa", is "bbb"'):
        reopened(tmp_path, {"the data set": "bbb", "the weights file": "w"})


@pytest.mark.parametrize(
    "changes",
    [
        {"search.trials": 6},
        {"search.concurrency": 3, "search.cpus_per_trial": 0.5, "search.retries": 0, "search.max_failures": 9},
        {"data.cache_mb": 1, "data.threads": 7, "data.table": "elsewhere"},
        {"search.confirm": {"repeats": 3, "top": 2}},
    ],
)
def test_where_how_fast_and_how_long_may_change(done: Path, changes: dict[str, Any]) -> None:
    before = {run: what for run, what in outcome(reopened(done)).items() if "-pair" not in run}
    after = outcome(reopened(done, **changes))
    assert all(after[run] == what for run, what in before.items())


def test_more_trials_go_on_as_if_they_had_been_asked_for_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    off = {"search.confirm": {"repeats": 0}}
    uninterrupted(tmp_path / "a", simulated_config(trials=4, **off))
    extended = uninterrupted(tmp_path / "a", simulated_config(trials=9, **off))
    at_once = uninterrupted(tmp_path / "b", simulated_config(trials=9, **off))
    assert {k: v for k, v in outcome(extended).items() if "cid" in k}.keys() == {
        k for k in outcome(at_once) if "cid" in k
    }
    assert len(outcome(extended)) == len(outcome(at_once)) == 2 * (3 + 9)
