"""MLflow: a run is found again by the id of the search and its own name; a pruned one ends as
KILLED.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.callbacks import _mlflow_compat
from cid_ray.callbacks.experiment_logger import (
    INTERRUPTED,
    TEST_SCORES,
    ExperimentLogger,
    LoggedRun,
    LoggedTrial,
)
from cid_ray.search.trial_states import STATE_NAMES

MAX_RUNS = 50_000


class MLflowLogger(ExperimentLogger):
    """Through `ray.air.integrations.mlflow.MLflowLoggerCallback`."""

    package = "mlflow"
    ray_callback = ("ray.air.integrations.mlflow", "MLflowLoggerCallback")

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve()}/mlflow.db"
        return {"tracking_uri": uri, "experiment_name": out.resolve().name, **args}

    @classmethod
    def check_arguments(cls, args: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        super().check_arguments(args)
        if "tracking_uri" in args:
            MlflowClient(tracking_uri=args["tracking_uri"])

    def logged_runs(self) -> dict[str, LoggedRun]:
        from mlflow.tracking import MlflowClient

        search_id = self.history.search_id
        self.client = MlflowClient(tracking_uri=self.callback.tracking_uri)
        self.callback.tags = {**self.callback.tags, "search_id": search_id}
        self.run_ids: dict[str, str] = {}
        found: dict[str, LoggedRun] = {}
        experiment = self.callback.mlflow_util.experiment_id
        try:
            self._delete_half_created(experiment)
        except Exception:
            uri = self.callback.tracking_uri
            if not _mlflow_compat.remove_unreadable_runs(self.client, uri, experiment, search_id):
                raise
            self._delete_half_created(experiment)
        query = f"tags.search_id = '{search_id}'"
        for run in self.client.search_runs([experiment], query, max_results=MAX_RUNS):
            name = run.data.tags.get("trial_name", "")
            if name not in self.history.runs:
                continue  # another machine's
            finished = run.data.tags.get("state") in STATE_NAMES.values()
            if not finished and self._is_damaged(name, run.data.params):
                self.client.delete_run(run.info.run_id)
                continue
            self.run_ids[name] = run.info.run_id
            logged = LoggedRun(finished=finished)
            found[name] = logged
            for key in run.data.metrics:
                # Of a finished run only test scores may be missing.
                if not finished or key.startswith(TEST_SCORES):
                    points = self.client.get_metric_history(run.info.run_id, key)
                    logged.add((key, point.step) for point in points)
        return found

    def _delete_half_created(self, experiment: str) -> None:
        """Delete runs of our names that a kill left before they got a tag: they begin anew.

        A store of plain files creates a run first and writes its tags one by one.
        """
        query = "attributes.status = 'RUNNING'"
        for run in self.client.search_runs([experiment], query, max_results=MAX_RUNS):
            is_empty = not (run.data.params or run.data.metrics or "search_id" in run.data.tags)
            if is_empty and run.info.run_name in self.history.runs:
                self.client.delete_run(run.info.run_id)

    def _is_damaged(self, name: str, params: Mapping[str, str]) -> bool:
        """Whether a kill left a parameter half written in a store of plain files.

        MLflow refuses to change a parameter, so such a run has to be logged again.
        """
        expected = self.logged_trial(self.history.runs[name]).config
        return any(str(expected[key]) != value for key, value in params.items() if key in expected)

    def continue_run(self, trial: LoggedTrial) -> None:
        if trial.name in self.run_ids:
            _mlflow_compat.set_run_id(self.callback, trial, self.run_ids[trial.name])
            self.client.update_run(self.run_ids[trial.name], status="RUNNING")

    def reopen_run(self, trial: LoggedTrial) -> None:
        _mlflow_compat.set_run_id(self.callback, trial, self.run_ids[trial.name])

    def close_run(self, trial: LoggedTrial, state: str, reason: str) -> None:
        run_id = _mlflow_compat.run_id(self.callback, trial)
        self.client.set_tag(run_id, "state", state)
        self.client.set_tag(run_id, "reason", reason)
        if state in ("pruned", INTERRUPTED):
            self.client.set_terminated(run_id, "KILLED")
        self.run_ids[trial.name] = run_id
