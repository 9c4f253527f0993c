"""Private API of Ray's MLflow callback, all uses of it in one place. Tested with MLflow TESTED and
Ray 2.56 to 2.60.

Ray's callback keeps the MLflow run id of each trial in `_trial_runs`. It has no public way to
continue a run that an earlier process started.
"""

from __future__ import annotations

from typing import Any

from cid_ray.callbacks.experiment_logger import LoggedTrial

TESTED = ">=3.1.1,<4"


def run_id(callback: Any, trial: LoggedTrial) -> str:
    """The MLflow run id that Ray's callback has for a trial."""
    return str(callback._trial_runs[trial])


def set_run_id(callback: Any, trial: LoggedTrial, run_id: str) -> None:
    """Let Ray's callback continue an existing MLflow run."""
    callback._trial_runs[trial] = run_id
