"""`search.trackers`: TensorBoard, MLflow and Weights & Biases, each a name with the arguments of Ray's callback.

    search.trackers: {tensorboard: {}, mlflow: {tracking_uri: "sqlite:///mlflow.db"}, wandb: {project: cid}}

A subclass of Tracker says which callback it is, what the search gives it, and what it leaves open: how a run that was
begun earlier is found again, and how one ends that was pruned.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cid_ray.search.studies import HOW
from cid_ray.search.tracker import INTERRUPTED, Kept, Tracker, Trial, measured

PREFIX = "ray/tune/"  # of Ray's TensorBoard tags


class TensorBoard(Tracker):
    """RUN/tensorboard/NAME; a run that goes on adds a file to its folder."""

    package, ray_callback = "tensorboardX", ("ray.tune.logger", "TBXLoggerCallback")

    def folder(self, name: str) -> Path:
        return self.out / "tensorboard" / name

    def what_it_has(self) -> dict[str, Kept]:
        from tensorboardX.proto.event_pb2 import Event

        found = {}
        for folder in sorted((self.out / "tensorboard").glob("*")):
            kept = found[folder.name] = Kept()
            for record in records(folder):
                event = Event.FromString(record)
                tags = {value.tag for value in event.summary.value}
                kept.ended = kept.ended or "_hparams_/session_end_info" in tags
                kept.add((tag.removeprefix(PREFIX), event.step) for tag in tags if tag.startswith(PREFIX))
        return found

    def go_on(self, trial: Trial) -> None:
        """A file is named by its second, and an older one of that name would be overwritten: wait for the next."""
        files = Path(trial.local_path).glob("events.out.tfevents.*")
        newest = max((file.name.split(".")[3] for file in files), default="")
        while str(time.time())[:10] <= newest:
            time.sleep(0.05)


class MLflow(Tracker):
    """A run is found again by the id of the search and its own name; a pruned one ends as KILLED."""

    package, ray_callback = "mlflow", ("ray.air.integrations.mlflow", "MLflowLoggerCallback")

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve()}/mlflow.db"
        return {"tracking_uri": where, "experiment_name": out.resolve().name, **args}

    @classmethod
    def try_out(cls, args: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        super().try_out(args)
        if "tracking_uri" in args:
            MlflowClient(tracking_uri=args["tracking_uri"])

    def what_it_has(self) -> dict[str, Kept]:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=self.callback.tracking_uri)
        self.callback.tags = {**self.callback.tags, "search_id": self.past.search_id}
        self.ids, found = {}, {}
        mine = f"tags.search_id = '{self.past.search_id}'"
        for run in self.client.search_runs([self.callback.mlflow_util.experiment_id], mine, max_results=50_000):
            name, ended = run.data.tags["trial_name"], run.data.tags.get("state") in HOW.values()
            self.ids[name] = run.info.run_id
            asked = [key for key in run.data.metrics if not ended or key.startswith(("test/", "best/"))]
            history = [(key, self.client.get_metric_history(run.info.run_id, key)) for key in asked]
            found[name] = Kept(ended=ended)
            found[name].add((key, point.step) for key, points in history for point in points)
        return found

    def go_on(self, trial: Trial) -> None:
        if trial.name in self.ids:
            self.callback._trial_runs[trial] = self.ids[trial.name]
            self.client.update_run(self.ids[trial.name], status="RUNNING")

    def reopen(self, trial: Trial) -> None:
        self.callback._trial_runs[trial] = self.ids[trial.name]

    def close_run(self, trial: Trial, how: str, reason: str) -> None:
        run = self.callback._trial_runs[trial]
        for key, value in (("state", how), ("reason", reason)):
            self.client.set_tag(run, key, value)
        if how in ("pruned", INTERRUPTED):
            self.client.set_terminated(run, "KILLED")
        self.ids[trial.name] = run


class Wandb(Tracker):
    """A run's id holds that of the search: W&B goes on with it, and itself passes over steps that it has."""

    package, ray_callback = "wandb", ("ray.air.integrations.wandb", "WandbLoggerCallback")

    @staticmethod
    def arguments(args: Mapping[str, Any], out: Path) -> dict[str, Any]:
        mode = args.get("mode") or os.environ.get("WANDB_MODE")
        if mode:
            os.environ["WANDB_MODE"] = mode  # the callback asks for a key unless it reads there that none is needed
            args = {"mode": mode, **args}
        return {**args, "resume": "allow", "dir": str(out.resolve())}

    @classmethod
    def try_out(cls, args: Mapping[str, Any]) -> None:
        cls.make(args, Path("run")).setup()  # finds the project and the key

    def what_it_has(self) -> dict[str, Kept]:
        """W&B's own files say which runs were begun from this folder, the record what they were told."""
        found = {}
        for name, rows in self.past.rows.items():
            if any((self.out / "wandb").glob(f"*run-*-{self.past.search_id}-{name}")):
                told = [row for row in rows if row["event"] != "trial"]
                found[name] = Kept(ended=len(told) < len(rows))
                found[name].add((key, row["images_seen"]) for row in told for key in measured(row))
        return found

    def reopen(self, trial: Trial) -> None:
        self.callback.on_experiment_end([])  # the process of a run that has ended takes no more
        super().reopen(trial)

    def ended(self, name: str, how: str, reason: str) -> None:
        if how != INTERRUPTED:  # of its own results Ray's callback keeps this one as a setting
            self.callback.log_trial_result(0, self.trials[name], {"experiment_tag": how})
        super().ended(name, how, reason)


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": Wandb}


def records(folder: Path) -> Iterator[bytes]:
    """TensorBoard's records in a folder's files, up to where a kill cut one short: length, checksum, body, checksum."""
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, place = file.read_bytes(), 0
        while place + 12 <= len(data):
            size = int.from_bytes(data[place : place + 8], "little")
            if place + 12 + size > len(data):
                break
            yield data[place + 12 : place + 12 + size]
            place += size + 16
