"""Weights & Biases: a run's id contains that of the search. W&B continues it and itself skips steps
that it has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.callbacks.experiment_logger import (
    INTERRUPTED,
    ExperimentLogger,
    LoggedRun,
    LoggedTrial,
    metrics_of,
)


class WandbLogger(ExperimentLogger):
    """Through `ray.air.integrations.wandb.WandbLoggerCallback`."""

    package = "wandb"
    ray_callback = ("ray.air.integrations.wandb", "WandbLoggerCallback")

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        mode = args.get("mode") or os.environ.get("WANDB_MODE")
        if mode:
            # The callback asks for an API key unless it reads here that none is needed.
            os.environ["WANDB_MODE"] = mode
            args = {"mode": mode, **args}
        return {**args, "resume": "allow", "dir": str(out.resolve())}

    @classmethod
    def check_arguments(cls, args: Mapping[str, Any]) -> None:
        cls.make(args, Path("run")).setup()  # finds project and API key

    def logged_runs(self) -> dict[str, LoggedRun]:
        """W&B's local files say which runs were started from this folder, the records what they
        logged.
        """
        found: dict[str, LoggedRun] = {}
        for name, records in self.history.records.items():
            if any((self.out / "wandb").glob(f"*run-*-{self.history.search_id}-{name}")):
                measured = [r for r in records if r["event"] != "trial"]
                logged = LoggedRun(finished=len(measured) < len(records))
                found[name] = logged
                for record in measured:
                    logged.add((key, record["images_seen"]) for key in metrics_of(record))
        return found

    def reopen_run(self, trial: LoggedTrial) -> None:
        self.callback.on_experiment_end([])  # the process of an ended run accepts nothing more
        super().reopen_run(trial)

    def end_run(self, name: str, state: str, reason: str) -> None:
        if state != INTERRUPTED:
            # Of a result Ray's callback keeps this key alone as a config value.
            self.callback.log_trial_result(0, self.trials[name], {"experiment_tag": state})
        super().end_run(name, state, reason)
