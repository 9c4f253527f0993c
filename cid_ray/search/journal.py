"""A search's journal file: repaired after a crash, refused when damaged; and the fingerprint of the
search that it holds.

Two leftovers of a crash would break the next start, so both are removed before a journal is opened:
a last line that a full disk or a kill cut short would spoil the line after it, and the lock of a
killed process would block the next one.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import (
    NOT_FINGERPRINTED,
    Config,
    InputError,
    describe_changes,
    error_summary,
    flatten,
)
from cid_ray.search import _optuna_compat
from cid_ray.search.indexed_storage import IndexedStorage
from cid_ray.search.journal_file import JournalFile
from cid_ray.storage import json_file, paths
from cid_ray.storage.paths import PathOrUri

JOURNAL = "study.journal"
TORN_LINE_SUFFIX = ".torn"
FINGERPRINT_ATTR = "fingerprint"  # study attribute
GRACE_PERIOD_S = 3  # after which the journal lock of a killed process is taken over

# A resume may change these: what changes no result, and how long and how the search runs.
RESUMABLE_KEYS = (
    *NOT_FINGERPRINTED,
    "study.",
    "prices.",
    "model.weights",
    "train.num_sample_images",
    "train.warn_no_pseudo_steps",
    "distributed.",
    "search.trials",
    "search.supervised_ratios",
    "search.baseline_trials",
    "search.max_concurrent_trials",
    "search.cpus_per_trial",
    "search.gpus_per_trial",
    "search.repeats.",
    "search.retries",
    "search.max_preemption_failures",
    "search.max_failed_trials",
    "search.callbacks",
)


class JournalLock(JournalFileSymlinkLock):
    """Optuna's lock, which distinguishes a vanished run folder from a lock that is not held."""

    def __init__(self, filepath: str, grace_period: int | None):
        super().__init__(filepath, grace_period)
        self._folder = Path(filepath).parent

    def release(self) -> None:
        """Release the lock.

        Raises:
            FileNotFoundError: the folder is gone, and the lock with it.
            RuntimeError: the lock is not held.
        """
        try:
            super().release()
        except RuntimeError:
            if self._folder.is_dir():
                raise
            missing = errno.ENOENT
            raise FileNotFoundError(missing, os.strerror(missing), str(self._folder)) from None


def open_journal(path: Path, run: PathOrUri | None = None) -> Any:
    """The IndexedStorage of a journal file, which is created if absent. Before the first write an
    incomplete last line must be cut off (`cut_torn_line`).

    Args:
        path: the file on this machine.
        run: the run folder, for messages; None: the folder of the file.

    Raises:
        InputError: a line is damaged; the file is left as it is.
    """
    # The lock is a symlink that must find its target from anywhere.
    path = path.parent.resolve() / path.name
    remove_dead_lock(path)
    file = JournalFile(str(path), JournalLock(str(path), grace_period=GRACE_PERIOD_S))
    return IndexedStorage(read_journal(path, run or path.parent, file), file)


def read_journal(
    path: Path, run: PathOrUri, file: JournalFileBackend | None = None
) -> JournalStorage:
    """The storage in a journal file that nobody cut short. Reading it changes nothing.

    Raises:
        InputError: a line is damaged, or what it says cannot be.
    """
    damage = damaged_line(path)
    try:
        if not damage:
            storage = JournalStorage(file or JournalFileBackend(str(path)))
            stored_trials(storage, run)
            return storage
    except (InputError, OSError):
        raise
    except Exception as error:  # a replay of changed lines raises many types
        damage = f"cannot be replayed ({error_summary(error, with_type=True)[:160]})"
    raise InputError(
        f"{paths.join(run, JOURNAL)} {damage}; `python -m cid_ray.repair {run}` rebuilds the "
        "studies from records.jsonl and keeps a copy of what is there"
    )


def damaged_line(path: Path) -> str:
    """The first line of a journal that is none, in words; "" without one.

    An incomplete last line is no damage: another process may be writing it.
    """
    for number, line in enumerate(read_lines(path), start=1):
        problem = problem_of_line(line)
        if problem:
            return f"is damaged in line {number}: {problem}"
    return ""


def read_lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a journal; none without a file."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def problem_of_line(line: bytes) -> str:
    """Why a line is none of a journal, in a few words; "" when it is one."""
    try:
        log = json_file.parse_json(line.decode())  # NaN: a rung without ground truth
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError:
        return "not JSON"
    if not isinstance(log, dict) or not isinstance(log.get("op_code"), int):
        return "not an operation of Optuna"
    return ""


def stored_trials(storage: Any, run: PathOrUri, shared: str = "") -> dict[str, list[FrozenTrial]]:
    """Study name -> its trials, of every study of a search.

    Args:
        storage: of Optuna.
        run: the run folder, for messages.
        shared: what the names of the search's studies start with, in a database of several.

    Raises:
        InputError: the name of a trial's run is a path.
        ValueError: a trial contradicts itself.
    """
    names = [name for name in optuna.get_all_study_names(storage) if name.startswith(shared)]
    found = {}
    for name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        found[name] = study.get_trials(deepcopy=False)
        for trial in found[name]:
            _optuna_compat.validate(trial)
            run_of_trial = trial.user_attrs.get("run")
            if run_of_trial is not None:
                paths.check_component(run_of_trial, run)
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                raise ValueError(f"trial {trial.number} of {name} has ended, and names no run")
            if trial.state == TrialState.COMPLETE and not trial.values:
                raise ValueError(f"trial {trial.number} of {name} is complete without a value")
    return found


def remove_dead_lock(path: Path) -> None:
    """Remove a lock older than GRACE_PERIOD_S."""
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink() and time.time() - lock.lstat().st_mtime > GRACE_PERIOD_S:
        lock.unlink(missing_ok=True)


def cut_torn_line(path: Path) -> str:
    """Cut off an incomplete last line, and keep it in a file of its own.

    Returns:
        What was done, in words; "" without such a line.
    """
    if not path.exists():
        return ""
    with path.open("rb+") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            torn = path.with_name(path.name + TORN_LINE_SUFFIX)
            torn.write_bytes(content[complete:])
            file.truncate(complete)
            return f"{path} ended within a line: its writer was killed; what was cut is in {torn}"
    return ""


def search_fingerprint(config: Config, content_hashes: Mapping[str, str]) -> dict[str, Any]:
    """What makes two searches the same one: dotted key -> value.

    Args:
        config: the configuration of the search.
        content_hashes: hashes of the data set and the weights file, by a name for messages.
    """
    values = flatten(config.model_dump(mode="json"))
    kept = {key: value for key, value in values.items() if not key.startswith(RESUMABLE_KEYS)}
    return kept | dict(content_hashes)


def check_same_search(
    study: optuna.Study, fingerprint: Mapping[str, Any], name: str, new: str
) -> None:
    """Store the fingerprint in a new study; for an old one, compare.

    Args:
        study: the study that holds the fingerprint.
        fingerprint: from `search_fingerprint`.
        name: what the message calls the stored search.
        new: how to start a new search instead.

    Raises:
        InputError: the stored search is another one; the message names what changed.
    """
    mine = json.loads(json.dumps(fingerprint))
    stored = study.user_attrs.get(FINGERPRINT_ATTR)
    if stored is None:
        study.set_user_attr(FINGERPRINT_ATTR, mine)
        return
    changed = describe_changes(stored, mine)
    if changed:
        raise InputError(
            f"{name} holds another search: {changed}. Old and new trials are not comparable: "
            f"restore the old values, or start a new search ({new})"
        )
