"""Studies that several machines share: `study.storage: postgresql+psycopg://host/database`.

Each machine runs its own `tune`, in a folder of its own, and takes trials from the same studies. A folder has an id,
which its trials bear: a resume goes on with its own interrupted trials and leaves those of others alone, until their
machine has been silent for long (silence.py). Two machines may begin one trial too many in the same instant; the
storage numbers them, so the later one knows and drops it. A trial's rows are kept with it, so that every machine can
report on all.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from cid_ray.config import InputError
from cid_ray.places import Name
from cid_ray.results.record import Row

OWNER, ROOT, SURPLUS, ROW = "owner", "root", "surplus", "row "  # attributes of a shared trial


def open_shared(url: str, silent: int) -> RDBStorage:
    """The storage of a SQLAlchemy URL; InputError when it cannot be had. `silent`: seconds, see silence.py."""
    try:
        return _made(url, silent, tries=5)
    except ImportError as error:
        raise InputError(
            f"study.storage {url} needs a driver ({error}); for postgresql+psycopg: pip install 'psycopg[binary]'"
        ) from None
    except Exception as error:
        raise InputError(
            f"study.storage {url} cannot be opened ({reason_of(error)}); user and password are taken from the "
            "environment (PGUSER, PGPASSWORD) or ~/.pgpass"
        ) from None


def _made(url: str, silent: int, tries: int) -> RDBStorage:
    """The storage; once more when another machine makes its tables in the same instant."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    while True:
        try:
            # the interval is only a switch: who asks and tells, as we do, records heartbeats himself
            return RDBStorage(url, {"pool_pre_ping": True}, heartbeat_interval=silent, grace_period=silent)
        except (IntegrityError, ProgrammingError):
            tries -= 1
            if not tries:
                raise
            time.sleep(random.uniform(0.1, 1.0))


def reason_of(error: BaseException) -> str:
    """What the database's driver says, in one line."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]


def owner_of(folder: Path) -> tuple[str, bool]:
    """The id of a run's folder, and whether it is new."""
    path = folder / "study.owner"
    if path.is_file():
        return path.read_text().strip(), False
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(uuid.uuid4().hex + "\n")
    return path.read_text().strip(), True


def claim(trial: Any, owner: str, root: Name) -> None:
    trial.set_user_attr(OWNER, owner)
    trial.set_user_attr(ROOT, str(root))


def keep_row(trial: Any, row: Row) -> None:
    trial.set_user_attr(f"{ROW}{row['event']} {row['images_seen']}", json.dumps(row, default=float))


def rows_of(trial: FrozenTrial) -> Iterator[Row]:
    return (json.loads(value) for key, value in trial.user_attrs.items() if key.startswith(ROW))
