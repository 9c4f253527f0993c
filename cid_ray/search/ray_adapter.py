"""A `Search` behind Ray Tune: a Searcher and a TrialScheduler that ask and report, and the actor
that runs trials.

Tune places trials, keeps the cluster busy and notices dead processes. Every decision about what
runs next and what is pruned is the search's. Trial actors are reused: the next trial starts with
torch imported and images decoded.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cid_ray.config import error_summary
from cid_ray.resources.capacity import Resources
from cid_ray.resources.ray_session import largest_node_cpus
from cid_ray.results.records import Record
from cid_ray.search.controller import Decision, Search
from cid_ray.search.memory_retries import NODE_CPUS, MemoryRetries
from cid_ray.search.process_end import TUNE_LOGGER, TrialErrors
from cid_ray.search.trial_fn import TrialFn, run_trial
from cid_ray.storage import paths
from cid_ray.training.preemption import Preempted

STOP = str(TrialScheduler.STOP)
CONTINUE = str(TrialScheduler.CONTINUE)
# A batch system that stops a job signals all its processes, in any order. Our own SIGTERM gets time
# to arrive before a trial's death counts as one of its retries.
SIGTERM_DELAY_S = 2.0
TRAIN = functools.partial(run_trial, reuse_process=True)

# Tune warns that it writes snapshots too often; they are never read.
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
# Its list of incomplete trials names none of ours.
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)


class TuneSearcher(Searcher):
    """Hands out the search's trials, with care after Ray has killed one for memory."""

    def __init__(self, search: Search, node_cpus: Callable[[], float | None]):
        super().__init__()
        self.search = search
        self.runs: dict[str, str] = {}  # Tune's trial id -> run name
        self.errors = TrialErrors()
        self.memory = MemoryRetries(node_cpus)

    def suggest(self, trial_id: str) -> Any:
        if not self.memory.may_start(self.runs.values()):
            return None
        trial = self.search.next_trial()
        if trial is None:
            waits = not self.search.should_stop() and self.search.has_work()
            return None if waits else Searcher.FINISHED
        self.runs[trial_id] = trial.name
        return self.memory.payload(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.memory.note_started(self.runs[trial_id])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Only the death of a trial's process is news; everything else was reported by
        TuneScheduler.
        """
        run = self.runs.pop(trial_id, None)
        if error and run is not None:
            end = self.errors.take_end()
            if not end.by_itself:
                time.sleep(SIGTERM_DELAY_S)
            change = self.memory.note_kill(run, len(self.runs)) if end.for_memory else ""
            self.search.report_process_died(run, end.reason + change)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("see the studies\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: Search.open reads the studies."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher into snapshots that are never read


class TuneScheduler(FIFOScheduler):
    """Passes every record to the search and its decision to Tune."""

    def __init__(self, search: Search):
        super().__init__()
        self.search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see TuneSearcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = self.search.report(json.loads(result["record"]))
        return CONTINUE if decision is Decision.CONTINUE else STOP


class _Interrupted(BaseException):
    """Ends Tune's loop. Tune cleans up after an Exception, for up to 15 seconds."""


class StopAtInterrupt(tune.Stopper):
    """Leaves Tune's loop at Ctrl-C, also while all trials are in a long step.

    What trials have done since their last checkpoint is done again after a resume. Ray ends their
    processes when the command ends.
    """

    def __init__(self, search: Search):
        self.search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see TuneSearcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False  # TuneScheduler stops trials

    def stop_all(self) -> bool:
        if self.search.rules.interrupted:
            raise _Interrupted
        return False


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process; a step is the next record."""

    def setup(self, config: dict[str, Any], trial_fn: Any = None) -> None:
        self.trial_fn = trial_fn  # of a payload alone: run folder and CPUs are bound
        self.start(config)

    def start(self, payload: dict[str, Any]) -> None:
        self.name = payload["name"]
        self.records = self.trial_fn(payload)

    def step(self) -> dict[str, Any]:
        try:
            record = next(self.records)
        except Preempted:
            raise  # ends this process too, which is on the node
        except Exception as error:
            record = failure_record(self.name, error)
        return {"record": json.dumps(record, default=float)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.start(new_config)
        return True

    def cleanup(self) -> None:
        close = getattr(self.records, "close", None)
        if close:
            close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray's own checkpoints stay empty: the training loop writes its state itself."""


def failure_record(run: str, error: Exception) -> Record:
    """What a trial's process reports of an exception: the trial failed, or the storage is lost."""
    if isinstance(error, OSError) and error.errno in paths.STORAGE_ERRNOS:
        return {
            "event": "storage_error",
            "run": run,
            "reason": error.strerror,
            "errno": error.errno,
            "path": str(error.filename or ""),
        }
    return {
        "event": "failed",
        "run": run,
        "reason": error_summary(error, with_type=True),
        "traceback": traceback.format_exc()[-4000:],
    }


def run_search(
    search: Search,
    resources: Resources,
    max_concurrent: int,
    trial_fn: TrialFn = TRAIN,
) -> None:
    """Run every trial of a search in one Tune experiment; returns when all have finished or the
    search stops.

    Args:
        search: hands out the trials and decides.
        resources: what one trial's own process requests.
        max_concurrent: trials that run at the same time.
        trial_fn: runs a trial in an actor's process, which is used again.
    """
    run_dir = str(paths.absolute(search.run_dir.uri))
    search.queue.max_concurrent = max_concurrent
    of_payload = functools.partial(trial_fn, run_dir, resources.cpus)
    is_one_process = search.config.distributed.max_workers == 1
    # Tune's own snapshots are never read, so they go to a folder that is removed.
    folder = tempfile.mkdtemp(prefix="cid_ray_tune_")
    # Ray Train's workers are not in the request.
    node_cpus = functools.partial(largest_node_cpus, resources) if is_one_process else lambda: None
    searcher = TuneSearcher(search, node_cpus)
    trainable = tune.with_parameters(TrialActor, trial_fn=of_payload)

    def request(payload: dict[str, Any]) -> tune.PlacementGroupFactory:
        cpus = payload.get(NODE_CPUS, resources.cpus)
        return tune.PlacementGroupFactory([{**resources.bundle(), "CPU": cpus}])

    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=TuneScheduler(search),
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            stop=StopAtInterrupt(search),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
        ),
    )
    TUNE_LOGGER.addFilter(searcher.errors)
    try:
        with (
            search.heartbeat.in_background(),
            search.storage_errors(),
            contextlib.suppress(_Interrupted),
        ):
            tuner.fit()
    finally:
        TUNE_LOGGER.removeFilter(searcher.errors)
        shutil.rmtree(folder, ignore_errors=True)
