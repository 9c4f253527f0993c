"""What is said when records or studies cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.exceptions import StorageInternalError

from cid_ray.config import error_summary
from cid_ray.search import rdb

if TYPE_CHECKING:
    from cid_ray.search.study_store import StudyStore

STORAGE_ERRORS = (OSError, StorageInternalError)  # records or studies cannot be written


def storage_error_message(store: StudyStore, error: BaseException) -> str:
    """Which storage failed, and why."""
    what = getattr(error, "strerror", None) or error_summary(error)
    file = getattr(error, "filename", None)
    where = f"{store.run_dir} cannot be written"
    if store.shared and isinstance(error, StorageInternalError):
        where = f"the studies' database, {store.config.study.storage}, does not answer"
        what = rdb.driver_message(error.__cause__ or error)
    named = f" ({file})" if file else ""
    return f"{where}: {what}{named}; the studies are unchanged"
