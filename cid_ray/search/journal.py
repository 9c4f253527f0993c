"""A search's journal file, repaired after a crash, and the fingerprint of the search that it holds.

Two leftovers of a crash would break the next start, so both are removed before a journal is opened:
a last line that a full disk or a kill cut short would spoil the line after it, and the lock of a
killed process would block the next one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from cid_ray.config import NOT_FINGERPRINTED, Config, InputError, describe_changes, flatten

JOURNAL = "study.journal"
FINGERPRINT_ATTR = "fingerprint"  # study attribute
GRACE_PERIOD_S = 3  # after which the journal lock of a killed process is taken over

# A resume may change these: what changes no result, and how long and how the search runs.
RESUMABLE_KEYS = (
    *NOT_FINGERPRINTED,
    "study.",
    "model.weights",
    "train.num_sample_images",
    "train.warn_no_pseudo_steps",
    "distributed.",
    "search.trials",
    "search.baseline_trials",
    "search.max_concurrent_trials",
    "search.cpus_per_trial",
    "search.gpus_per_trial",
    "search.repeats.",
    "search.retries",
    "search.max_failed_trials",
    "search.callbacks",
)


def open_journal(path: Path) -> JournalStorage:
    """The storage in a journal file, repaired first."""
    path = path.resolve()  # the lock is a symlink that must find its target from anywhere
    repair(path)
    lock = JournalFileSymlinkLock(str(path), grace_period=GRACE_PERIOD_S)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def repair(path: Path) -> None:
    """Cut off an incomplete last line; remove a lock older than GRACE_PERIOD_S."""
    lock = path.with_name(path.name + ".lock")
    if lock.is_symlink() and time.time() - lock.lstat().st_mtime > GRACE_PERIOD_S:
        lock.unlink(missing_ok=True)
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


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
