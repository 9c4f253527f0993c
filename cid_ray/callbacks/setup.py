"""The callbacks of a search: our own, and `search.callbacks`, checked before Ray starts and created
with a search.

search.callbacks: {tensorboard: {}, mlflow: {tracking_uri: "sqlite:///mlflow.db"}, wandb: {project:
cid}}
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import uuid

from cid_ray.callbacks.background import BackgroundCallback
from cid_ray.callbacks.console import SearchConsole
from cid_ray.callbacks.experiment_logger import ExperimentLogger, SearchHistory, records_by_run
from cid_ray.callbacks.footprint import FootprintCheck
from cid_ray.callbacks.mlflow import MLflowLogger
from cid_ray.callbacks.pool_alarm import PoolAlarm
from cid_ray.callbacks.prometheus import PrometheusMetrics
from cid_ray.callbacks.status_file import StatusFile
from cid_ray.callbacks.tensorboard import TensorBoardLogger
from cid_ray.callbacks.wandb import WandbLogger
from cid_ray.cli.console import RunConsole
from cid_ray.config import Config, InputError, error_summary
from cid_ray.results.records import read_records
from cid_ray.search.controller import Search
from cid_ray.search.plan import Placement, SearchPlan
from cid_ray.search.status import SearchStatus
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import TrialSpec, trial_config
from cid_ray.storage.run_dir import RunDir

LOGGERS: dict[str, type[ExperimentLogger]] = {
    "tensorboard": TensorBoardLogger,
    "mlflow": MLflowLogger,
    "wandb": WandbLogger,
}
_CHECKPOINTS = "checkpoints stay in the run folder"
_PER_RUN = "each run of the search has its own"
RESERVED_ARGUMENTS = {  # arguments that the search sets, and why
    "save_artifact": _CHECKPOINTS,
    "upload_checkpoints": _CHECKPOINTS,
    "save_checkpoints": _CHECKPOINTS,
    "id": _PER_RUN,
    "name": _PER_RUN,
    "config": "it holds a run's hyperparameters",
    "dir": "it is the run folder",
    "resume": "interrupted runs are resumed",
    "reinit": "each run has its own process",
}


def check_callbacks(config: Config, run_dir: RunDir) -> None:
    """Check `search.callbacks` before anything starts.

    Raises:
        InputError: an unknown tracker or argument, a missing package, a store that the tracker
            refuses.
    """
    for name, args in config.search.callbacks.items():
        if name not in LOGGERS:
            raise InputError(
                f"`search.callbacks` may have {', '.join(LOGGERS)}, each with its arguments; not "
                f"{name!r}"
            )
        key = f"search.callbacks.{name}"
        known = known_arguments(name)
        for arg in args:
            if arg in RESERVED_ARGUMENTS:
                raise InputError(
                    f"`{key}.{arg}` is set by the search: {RESERVED_ARGUMENTS[arg]}; leave it out"
                )
            if arg not in known:
                allowed = ", ".join(sorted(known)) or "none"
                raise InputError(f"unknown key `{key}.{arg}`; it may have {allowed}")
        has_uri = "tracking_uri" in args or "MLFLOW_TRACKING_URI" in os.environ
        if name == "mlflow" and run_dir.remote and not has_uri:
            raise InputError(
                f"`{key}` needs a tracking_uri: a run in an object store cannot hold MLflow's "
                "database"
            )
        try:
            LOGGERS[name].check_arguments(args)
        except Exception as error:
            raise InputError(
                f"`{key}` is {dict(args)}, which {name} refuses: {error_summary(error)}"
            ) from None


def known_arguments(name: str) -> set[str]:
    """The arguments that a configuration may give to a tracker."""
    logger = LOGGERS[name]
    try:
        package = importlib.import_module(logger.package)
        known = set(inspect.signature(logger.callback_class().__init__).parameters) - {"self"}
    except ImportError as error:
        raise InputError(
            f"`search.callbacks.{name}` needs a package ({error}): pip install 'cid_ray[{name}]'"
        ) from None
    if "kwargs" in known:  # Ray's W&B callback passes them to wandb.init
        known |= set(inspect.signature(package.init).parameters)
    return known - RESERVED_ARGUMENTS.keys() - {"kwargs", "api_key", "tracking_token"}


def add_default_callbacks(
    search: Search, console: RunConsole, plan: SearchPlan, placement: Placement
) -> None:
    """Add what every search of `tune` has, and the trackers of its configuration.

    Args:
        search: just opened.
        console: shows lines and the live table.
        plan: names the ratios and what the search needs of the disk.
        placement: how many trials share a machine.
    """
    status = SearchStatus(search.store, plan.ratio_names)  # first: the console's table shows it
    footprint = FootprintCheck(plan.disk, placement.processes, placement.gpu_processes)
    shown = [status, SearchConsole(console, status), footprint, PoolAlarm()]
    for callback in (*shown, PrometheusMetrics(), StatusFile(), *make_loggers(search)):
        search.add_callback(callback)


def make_loggers(search: Search) -> list[BackgroundCallback]:
    """A callback for every tracker of the configuration."""
    wanted = search.config.search.callbacks
    if not wanted:
        return []
    out = search.run_dir.local.resolve()
    if "tensorboard" in wanted:
        search.run_dir.pull("tensorboard")
    records = read_records(out, warn=False)
    history = SearchHistory(
        search_id(search.store), known_runs(search.store), records_by_run(records)
    )
    # Ray's callbacks are created here: two threads that import at the same time may fail.
    callbacks = {name: LOGGERS[name].make(args, out) for name, args in wanted.items()}
    return [
        BackgroundCallback(name, functools.partial(LOGGERS[name], callback, out, history))
        for name, callback in callbacks.items()
    ]


def search_id(store: StudyStore) -> str:
    """Identifies this search among all others; created once and stored in its first study."""
    study = next(iter(store.studies.values()))
    if "search_id" not in study.user_attrs:
        study.set_user_attr("search_id", uuid.uuid4().hex[:8])
    return str(study.user_attrs["search_id"])


def known_runs(store: StudyStore) -> dict[str, TrialSpec]:
    """Every run that has started; of a shared study those of this machine."""
    found: dict[str, TrialSpec] = {}
    for key in store.studies:
        for trial in store.trials(key):
            name = trial.user_attrs.get("run")
            if name and store.is_own(trial):
                params = {**store.space.fixed, **(key.params if key.repeats_of else trial.params)}
                index = store.repeat_index(key, trial)
                config = trial_config(store.config, key, params, index)
                found[name] = TrialSpec(key, name, config, trial, params, repeat_index=index)
    return found
