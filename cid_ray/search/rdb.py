"""Studies that several machines share: `study.storage: postgresql+psycopg://host/database`.

Each machine runs its own `tune` in a run folder of its own and takes trials from the same studies.
A run folder has an owner id, which its trials carry. A resume continues its own interrupted trials
and leaves those of other machines alone until their heartbeat stops (heartbeat.py). The records of
a trial are stored with it, so every machine can report on all.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from cid_ray.config import InputError, error_summary
from cid_ray.results.record_lines import parse_line
from cid_ray.results.records import Record
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

# User attributes of a shared trial.
OWNER = "owner"
RUN_DIR = "run_dir"
RECORD = "record "  # prefix; followed by event and images seen

CREATE_ATTEMPTS = 5


def open_rdb(url: str, timeout_s: int) -> RDBStorage:
    """The storage of a SQLAlchemy URL.

    Args:
        url: without user and password; these come from the environment.
        timeout_s: seconds without a heartbeat after which a trial is stale.

    Raises:
        InputError: no driver, or the database cannot be opened.
    """
    try:
        return _create_storage(url, timeout_s)
    except ImportError as error:
        raise InputError(
            f"study.storage {url} needs a driver ({error}); for postgresql+psycopg: pip install "
            "'psycopg[binary]'"
        ) from None
    except Exception as error:
        raise InputError(
            f"study.storage {url} cannot be opened ({driver_message(error)}); user and password "
            "are taken from the "
            "environment (PGUSER, PGPASSWORD) or ~/.pgpass"
        ) from None


def _create_storage(url: str, timeout_s: int) -> RDBStorage:
    """The storage; tries again when another machine creates its tables at the same time."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for attempt in range(1, CREATE_ATTEMPTS + 1):
        try:
            # The interval only turns heartbeats on. Optuna sends them from `study.optimize`; we use
            # ask and tell, so heartbeat.Heartbeat sends them.
            return RDBStorage(
                url,
                {"pool_pre_ping": True},
                heartbeat_interval=timeout_s,
                grace_period=timeout_s,
            )
        except (IntegrityError, ProgrammingError):
            if attempt == CREATE_ATTEMPTS:
                raise
            time.sleep(random.uniform(0.1, 1.0))
    raise AssertionError("unreachable")


def driver_message(error: BaseException) -> str:
    """What the database's driver says, in one line."""
    return error_summary(getattr(error, "orig", None) or error)


def run_owner(folder: Path) -> tuple[str, bool]:
    """The owner id of a run folder, and whether it was created now."""
    path = folder / "study.owner"
    if path.is_file():
        return path.read_text(encoding="utf-8").strip(), False
    paths.write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip(), True


def claim(trial: Any, owner: str, run_dir: PathOrUri) -> None:
    """Mark a trial as run by this run folder."""
    trial.set_user_attr(OWNER, owner)
    trial.set_user_attr(RUN_DIR, str(run_dir))


def store_record(trial: Any, record: Record) -> None:
    """Store a record with its trial, for the other machines."""
    key = f"{RECORD}{record['event']} {record['images_seen']}"
    trial.set_user_attr(key, json.dumps(record, default=float))


def stored_records(trial: FrozenTrial) -> Iterator[Record]:
    """The records stored with a trial; what is none, another program has written."""
    for key, value in trial.user_attrs.items():
        if key.startswith(RECORD):
            with suppress(ValueError):
                yield parse_line(str(value).encode())
