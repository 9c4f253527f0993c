"""Private parts of MLflow and of Ray's MLflow callback, all uses of them in one place. Tested with
MLflow TESTED and Ray 2.56 to 2.60.

Ray's callback keeps the MLflow run id of each trial in `_trial_runs`. It has no public way to
continue a run that an earlier process started. A store of plain files keeps a run in
ROOT/EXPERIMENT/RUN, each of its tags in a file of `tags`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cid_ray.callbacks.experiment_logger import LoggedTrial

TESTED = ">=3.1.1,<4"


def run_id(callback: Any, trial: LoggedTrial) -> str:
    """The MLflow run id that Ray's callback has for a trial."""
    return str(callback._trial_runs[trial])


def set_run_id(callback: Any, trial: LoggedTrial, run_id: str) -> None:
    """Let Ray's callback continue an existing MLflow run."""
    callback._trial_runs[trial] = run_id


def remove_unreadable_runs(
    client: Any, tracking_uri: str, experiment: str, search_id: str
) -> list[str]:
    """Remove runs that a kill left unreadable in a store of plain files.

    MLflow writes a run's `meta.yaml` and a metric's first line into an empty file. A kill between
    the two makes MLflow refuse every search of the experiment, until the run is gone.

    Args:
        client: an MlflowClient of `tracking_uri`.
        tracking_uri: the store.
        experiment: the experiment's id.
        search_id: runs with another value of this tag are left; runs without tags are removed.

    Returns:
        Ids of the removed runs; none where the store is a database or a server.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    if urlsplit(tracking_uri).scheme not in ("", "file"):
        return []
    removed = []
    folder = Path(local_file_uri_to_path(tracking_uri)) / experiment
    for run in sorted(path for path in folder.iterdir() if (path / "meta.yaml").exists()):
        try:
            client.get_run(run.name)
        except Exception:  # a damaged run raises many kinds
            tags = {tag.name: tag.read_text(encoding="utf-8") for tag in run.glob("tags/*")}
            if not tags or tags.get("search_id") == search_id:
                shutil.rmtree(run)
                removed.append(run.name)
    return removed
