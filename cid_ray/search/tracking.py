"""What `search.trackers` asks for: checked before Ray starts, and begun with a search."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import uuid

from cid_ray.config import Config, InputError
from cid_ray.home import Home
from cid_ray.results.record import read_rows
from cid_ray.search.arms import Assignment, trial_config
from cid_ray.search.behind import Behind
from cid_ray.search.silence import pair_of
from cid_ray.search.studies import Studies
from cid_ray.search.tracker import Past, rows_by_run
from cid_ray.search.trackers import TRACKERS

KEPT_HERE, EACH_ITS_OWN = "checkpoints stay in the run's folder", "each run of the search has its own"
OURS = {  # arguments that the search gives itself
    "save_artifact": KEPT_HERE, "upload_checkpoints": KEPT_HERE, "save_checkpoints": KEPT_HERE,
    "id": EACH_ITS_OWN, "name": EACH_ITS_OWN, "config": "it is a run's settings", "dir": "it is the run's folder",
    "resume": "interrupted runs go on", "reinit": "each run has its own process",
}  # fmt: skip


def check(config: Config, home: Home) -> None:
    """InputError for an argument that a callback does not have, a package that is missing, a store that is none."""
    for name, args in config.search.trackers.items():
        if name not in TRACKERS:
            raise InputError(f"`search.trackers` may name {', '.join(TRACKERS)}, each with its arguments; not {name!r}")
        key, known = f"search.trackers.{name}", known_arguments(name)
        for arg in args:
            if arg in OURS:
                raise InputError(f"`{key}.{arg}` is not for a configuration: {OURS[arg]}; leave it out")
            if arg not in known:
                raise InputError(f"unknown key `{key}.{arg}`; it may have {', '.join(sorted(known)) or 'none'}")
        if name == "mlflow" and home.remote and "tracking_uri" not in args and "MLFLOW_TRACKING_URI" not in os.environ:
            raise InputError(f"`{key}` needs a tracking_uri: a run in an object store cannot hold MLflow's database")
        try:
            TRACKERS[name].try_out(args)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"`{key}` is {dict(args)}, which {name} refuses: {reason}") from None


def known_arguments(name: str) -> set[str]:
    tracker = TRACKERS[name]
    try:
        package = importlib.import_module(tracker.package)
        known = set(inspect.signature(tracker.callback_class().__init__).parameters) - {"self"}
    except ImportError as error:
        raise InputError(f"`search.trackers.{name}` needs a package ({error}): pip install 'cid_ray[{name}]'") from None
    if "kwargs" in known:  # W&B's are handed on
        known |= set(inspect.signature(package.init).parameters)
    return known - OURS.keys() - {"kwargs", "api_key", "tracking_token"}


def start(home: Home, studies: Studies) -> list[Behind]:
    """A listener for every tracker of the configuration."""
    wanted, out = studies.config.search.trackers, home.here.resolve()
    if not wanted:
        return []
    if "tensorboard" in wanted:
        home.fetch("tensorboard")
    past = Past(search_id(studies), runs_of(studies), rows_by_run(read_rows(out)))
    # made here: two threads that import at once may fail
    callbacks = {name: TRACKERS[name].make(args, out) for name, args in wanted.items()}
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
