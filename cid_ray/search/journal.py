"""The study's storage: a run's folder held by one process, its journal mended after a crash, and what must not change.

A journal line that a full disk or a kill cut short would spoil the line after it, and the lock of a killed process
would hold up the next one, so both are cleared before a journal is opened. `same_search` refuses to go on when the
search itself has changed, and names what did.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from cid_ray.config import CHANGE_NO_RESULT, Config, InputError, changes, flat

JOURNAL = "study.journal"
IDENTITY = "identity"  # the study attribute that holds what must not change
GRACE_SECONDS = 3  # after which the journal lock of a killed process is taken over
FREE_TO_CHANGE = (  # on a resume: what changes no result, how long the search goes on, and how
    *CHANGE_NO_RESULT, "study.", "model.weights", "train.samples", "train.alarm_steps", "scale.", "search.trials",
    "search.baseline_trials", "search.concurrency", "search.cpus_per_trial", "search.gpus_per_trial",
    "search.confirm.", "search.retries", "search.max_failures", "search.trackers",
)  # fmt: skip


class Hold:
    """A run's folder while this process works in it; the kernel frees it when the process ends, however it ends."""

    def __init__(self, folder: Path):
        self.path = folder.resolve() / ".hold"
        try:
            self.file: IO[str] = self.path.open("a")
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{folder} is in use by another search; stop that one first, or choose another --out"
            ) from None

    def check(self) -> None:
        """OSError when the folder has been moved, removed or replaced under us: nothing may be written then."""
        if os.stat(self.path).st_ino != os.fstat(self.file.fileno()).st_ino:
            raise FileNotFoundError(f"{self.path.parent} is not the folder that this search began in")

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file, mended first. Absolute: the lock is a link that must find its target."""
    path = path.resolve()
    mend(path)
    lock = JournalFileSymlinkLock(str(path), grace_period=GRACE_SECONDS)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def mend(path: Path) -> None:
    """Cut off a last line without an end; take away a lock older than GRACE_SECONDS."""
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink() and time.time() - lock.lstat().st_mtime > GRACE_SECONDS:
        lock.unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def identity(config: Config, contents: Mapping[str, str]) -> dict[str, Any]:
    """What makes two searches the same one: dotted key -> value; `contents` are hashes of data and weights."""
    kept = flat(config.model_dump(mode="json"))
    return {key: value for key, value in kept.items() if not key.startswith(FREE_TO_CHANGE)} | dict(contents)


def same_search(study: optuna.Study, mine: Mapping[str, Any], name: str, new: str) -> None:
    """Keep the identity of a new study; InputError, naming what changed, when an old one has another."""
    mine = json.loads(json.dumps(mine))
    theirs = study.user_attrs.get(IDENTITY)
    if theirs is None:
        study.set_user_attr(IDENTITY, mine)
        return
    changed = changes(theirs, mine)
    if changed:
        raise InputError(
            f"{name} holds another search: {changed}. Old and new trials do not compare: "
            f"restore it, or begin a new run ({new})"
        )
