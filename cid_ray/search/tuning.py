"""Studies behind Ray Tune: a Searcher and a TrialScheduler that ask and tell, and the actor that runs trials.

Tune places trials, keeps the cluster full and notices dead processes; every decision about what runs next and what is
pruned is the studies'. A trial's actor is reused: the next trial starts with torch imported and images decoded.
The training function is injected, so this room knows nothing of tensors.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cid_ray.results.record import Row
from cid_ray.search.studies import Assignment, Studies

DIED = "the trial's process died (out of memory, killed, or its node was lost)"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)  # no trial's fault: the search stops
BROKEN = (OSError, StorageInternalError)  # record or study cannot be written
STOP, CONTINUE = str(TrialScheduler.STOP), str(TrialScheduler.CONTINUE)
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)  # its snapshots are never read
RowSource = Callable[[dict[str, Any]], Iterator[Row]]  # a trial's config -> its rows


class Progress(Protocol):
    """Who is told what happens: the command shows it and keeps the rows."""

    def begun(self, assignment: Assignment, resumed: bool) -> None: ...

    def row(self, row: Row) -> None: ...

    def retried(self, name: str, reason: str, again: int) -> None: ...

    def ended(self, name: str, how: str, reason: str = "") -> None: ...

    def lost(self, name: str) -> None: ...

    def look(self) -> None: ...

    def stopping(self) -> bool: ...

    def staying(self) -> bool: ...

    def check(self) -> None: ...

    def broken(self, error: Exception) -> None: ...


class StudySearcher(Searcher):
    """Hands out the studies' trials; everything that is told, is told by StudyScheduler."""

    def __init__(self, studies: Studies, progress: Progress):
        super().__init__()
        self.studies, self.progress = studies, progress
        self.names: dict[str, str] = {}  # Tune's trial id -> our name

    def suggest(self, trial_id: str) -> Any:
        try:
            self.progress.check()
            if self.progress.stopping():
                return Searcher.FINISHED
            self.progress.look()
            resumed = bool(self.studies.pending)
            assignment = self.studies.next()
            if assignment is None:
                return None if self.progress.staying() else Searcher.FINISHED
            self.progress.begun(assignment, resumed)
        except UpdateFinishedTrialError:  # taken back in this very instant, by a machine that thought us silent
            return None
        except BROKEN as error:
            self.progress.broken(error)
            return Searcher.FINISHED
        self.names[trial_id] = assignment.name
        return assignment.task

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune's own view of an end. Only the death of a trial's process is news: it is resumed, or has failed."""
        name = self.names.pop(trial_id, None)
        if not error or name not in self.studies.live or self.progress.stopping():
            return
        try:
            self.progress.check()
            again = self.studies.retry(name)
            if again:
                self.progress.retried(name, DIED, again)
            else:
                self.studies.fail(name, DIED)
                self.progress.ended(name, "failed", DIED)
        except UpdateFinishedTrialError:
            self.progress.lost(name)
        except BROKEN as problem:
            self.progress.broken(problem)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("the studies' journal is the state\n")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: see studies.py."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher into snapshots that we never read


class StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """Row in, decision out: records it, tells the study, and stops what is pruned, finished, failed or out of time."""

    def __init__(self, studies: Studies, progress: Progress):
        super().__init__()
        self.studies, self.progress = studies, progress

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see StudySearcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        try:
            self.progress.check()
            self.progress.look()
            return self.decide(json.loads(result["row"]))
        except UpdateFinishedTrialError:
            self.progress.lost(trial.config["name"])
            return STOP
        except BROKEN as error:
            self.progress.broken(error)
            return STOP

    def decide(self, row: Row) -> str:
        name, event = row["run"], row["event"]
        if name not in self.studies.live:
            return STOP
        if event == "unwritable":
            raise OSError(row["errno"], row["reason"], row["path"])
        self.progress.row(row)  # the record first: what a study knows, the rows must show
        if event == "failed":
            self.studies.fail(name, row["reason"])
            self.progress.ended(name, "failed", row["reason"])
            return STOP
        if event == "rung" and self.studies.rung(name, row):
            self.progress.ended(name, "pruned")
            return STOP
        if event == "final":
            self.progress.ended(name, *self.studies.complete(name, row))
            return STOP
        return STOP if self.progress.stopping() else CONTINUE


class TrialActor(tune.Trainable):
    """Runs one trial after another in one process; a step is the next row."""

    def setup(self, config: dict[str, Any], source: RowSource | None = None) -> None:
        assert source is not None
        self.source, self.rows = source, source(config)
        self.name = config["name"]

    def step(self) -> dict[str, Any]:
        try:
            row = next(self.rows)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            row = {"event": "failed", "run": self.name, "reason": reason, "traceback": traceback.format_exc()[-4000:]}
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                row = {"event": "unwritable", "run": self.name, "reason": error.strerror, "errno": error.errno}
                row["path"] = str(error.filename or "")
        return {"row": json.dumps(row, default=float)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.name, self.rows = new_config["name"], self.source(new_config)
        return True

    def cleanup(self) -> None:
        close = getattr(self.rows, "close", None)
        if close:
            close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Ray's own checkpoints stay empty: a run keeps its state itself."""


def run_trials(
    studies: Studies,
    progress: Progress,
    source: RowSource,
    bundle: dict[str, float],
    at_once: int,
) -> None:
    """Run every trial of the studies in one Tune experiment; returns when all are done or `progress` says stop.

    Tune's own snapshots are never read, so they go to a folder that is thrown away.
    """
    folder = tempfile.mkdtemp(prefix="cid_ray_tune_")
    trainable = tune.with_parameters(TrialActor, source=source)
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([bundle])),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(studies, progress), scheduler=StudyScheduler(studies, progress),
            num_samples=-1, max_concurrent_trials=at_once, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=folder, verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )  # fmt: skip
    try:
        with studies.vigil.beating():
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
