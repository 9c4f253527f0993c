"""What `search.trackers` asks for: checked before Ray starts, and begun with a search."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cid_ray.config import Config, InputError
from cid_ray.home import Home
from cid_ray.results.record import read_rows
from cid_ray.search.arms import Assignment, trial_config
from cid_ray.search.behind import Behind
from cid_ray.search.silence import pair_of
from cid_ray.search.studies import Studies
from cid_ray.search.tracker import Past, rows_by_run
from cid_ray.search.trackers import TRACKERS

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
KEPT_HERE, EACH_ITS_OWN = "checkpoints stay in the run's folder", "each run of the search has its own"
OURS = {  # arguments that the search gives itself
    "save_artifact": KEPT_HERE, "upload_checkpoints": KEPT_HERE, "save_checkpoints": KEPT_HERE,
    "id": EACH_ITS_OWN, "name": EACH_ITS_OWN, "config": "it is a run's settings", "dir": "it is the run's folder",
    "resume": "interrupted runs go on", "reinit": "each run has its own process",
}  # fmt: skip


def check(config: Config, home: Home) -> None:
    """InputError for an argument that a callback does not have, a package that is missing, a store that is none."""
    for name, args in config.search.trackers.items():
        key = f"search.trackers.{name}"
        known = known_arguments(name, key)
        for arg in args:
            if arg in OURS:
                raise InputError(f"`{key}.{arg}` is not for a configuration: {OURS[arg]}; leave it out")
            if arg not in known:
                raise InputError(f"unknown key `{key}.{arg}`; it may have {', '.join(sorted(known)) or 'none'}")
        if name == "mlflow" and home.remote and "tracking_uri" not in args and "MLFLOW_TRACKING_URI" not in os.environ:
            raise InputError(f"`{key}` needs a tracking_uri: a run in an object store cannot hold MLflow's database")
        try:
            try_out(name, args)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"`{key}` is {dict(args)}, which {name} refuses: {reason}") from None


def try_out(name: str, args: Mapping[str, Any]) -> None:
    """Raise what a callback or its store says at once to these arguments; no server is asked, no run begun."""
    callback = make(name, args, Path("run"))
    if name == "mlflow" and "tracking_uri" in args:
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=args["tracking_uri"])
    elif name == "wandb":
        callback.setup()  # finds the project and the key


def known_arguments(name: str, key: str) -> set[str]:
    try:
        __import__(PACKAGES[name])
        known = set(inspect.signature(callback_class(name).__init__).parameters) - {"self", "kwargs"}
        if name == "wandb":
            import wandb

            known |= set(inspect.signature(wandb.init).parameters)
    except ImportError as error:
        raise InputError(f"`{key}` needs a package ({error}): pip install 'cid_ray[{name}]'") from None
    return known - OURS.keys() - {"api_key", "tracking_token"}


def callback_class(name: str) -> Any:
    if name == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback as Callback
    elif name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback as Callback
    else:
        from ray.air.integrations.wandb import WandbLoggerCallback as Callback
    return Callback


def make(name: str, args: Mapping[str, Any], out: Path) -> Any:
    """Ray's callback, with what the search fills in."""
    if name == "mlflow":
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve()}/mlflow.db"
        args = {"tracking_uri": where, "experiment_name": out.resolve().name, **args}
    if name == "wandb":
        mode = args.get("mode") or os.environ.get("WANDB_MODE")
        if mode:
            os.environ["WANDB_MODE"] = mode  # the callback asks for a key unless it reads there that none is needed
            args = {"mode": mode, **args}
        args = {**args, "resume": "allow", "dir": str(out.resolve())}
    return callback_class(name)(**args)


def start(home: Home, studies: Studies) -> list[Behind]:
    """A listener for every tracker of the configuration."""
    wanted, out = studies.config.search.trackers, home.here.resolve()
    if not wanted:
        return []
    if "tensorboard" in wanted:
        home.fetch("tensorboard")
    past = Past(search_id(studies), runs_of(studies), rows_by_run(read_rows(out)))
    callbacks = {name: make(name, args, out) for name, args in wanted.items()}  # here: threads that import may fail
    return [Behind(name, functools.partial(TRACKERS[name], made, out, past)) for name, made in callbacks.items()]


def search_id(studies: Studies) -> str:
    """Tells this search from any other one, in this folder or another; made once."""
    study = next(iter(studies.studies.values()))
    if "search_id" not in study.user_attrs:
        study.set_user_attr("search_id", uuid.uuid4().hex[:8])
    return str(study.user_attrs["search_id"])


def runs_of(studies: Studies) -> dict[str, Assignment]:
    """Every run that was begun, of a shared study those of this machine."""
    found = {}
    for arm in studies.studies:
        for trial in studies.trials(arm):
            name = trial.user_attrs.get("run")
            if name and studies.is_mine(trial):
                params = {**studies.space.fixed, **(arm.params if arm.confirms else trial.params)}
                pair = pair_of(studies.every_trial(arm), trial) if arm.confirms else 0
                found[name] = Assignment(arm, name, trial_config(studies.config, arm, params, pair), trial, params)
    return found
