"""`Search`: one object from the first trial to the report, for commands, tests and notebooks.

The order inside `report` makes a search crash-safe: first the record is written, then the study is
told, then the trial's end is recorded. After a kill in between, `open` completes the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from cid_ray.callbacks.base import Callback
from cid_ray.config import Config, error_summary
from cid_ray.resources.capacity import Resources
from cid_ray.results.records import Record
from cid_ray.search import trial_states
from cid_ray.search.checks import check_search
from cid_ray.search.event_log import EventLog
from cid_ray.search.finalize import finalize_search
from cid_ray.search.heartbeat import Heartbeat
from cid_ray.search.pruning import pruned_at_rung
from cid_ray.search.remote_trials import RemoteTrials
from cid_ray.search.space import Space
from cid_ray.search.stop_rules import Decision, StopRules
from cid_ray.search.storage_errors import STORAGE_ERRORS, storage_error_message
from cid_ray.search.study_store import TIMEOUT_S, StudyStore
from cid_ray.search.trial_fn import TrialFn, run_trial
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage.run_config import write_config
from cid_ray.storage.run_dir import RunDir

NO_GROUND_TRUTH = "val has no ground truth"
PROCESS_DIED = "the trial's process died (out of memory, killed, or its node was lost)"


class Search:
    """A search in one run folder, held by one process. `Search.open` makes one.

    Example:
        >>> with Search.open(config, RunDir(folder)) as search:
        ...     while (trial := search.next_trial()) is not None:
        ...         run = (trial.config, folder, trial.name)
        ...         for record in cid_ray.train(*run, score_test=trial.score_test):
        ...             if search.report(record) is Decision.STOP:
        ...                 break
        ...     search.finalize()

    Attributes:
        run_dir: its folder.
        config: its configuration.
        store: its Optuna studies.
        queue: which trial runs next, and which run now.
        rules: when it has to stop.
        events: writes records and tells callbacks.
        total: trials of the whole search, repeats included.
        finished_before: trials that had finished when it was opened.
        not_scored: runs whose test scores could not be computed at the end.
    """

    def __init__(self, run_dir: RunDir, store: StudyStore, deadline: float | None = None):
        self.run_dir = run_dir
        self.config = store.config
        self.store = store
        self.queue = TrialQueue(store)
        self.heartbeat = Heartbeat(self.queue)
        self.heartbeat.record()
        self.rules = StopRules(self.config.search.max_failed_trials, deadline)
        self.events = EventLog(store)
        self.callbacks = self.events.callbacks
        self.remote = RemoteTrials(self.queue, self.heartbeat, self.events)
        self.total = store.total_trials()
        self.finished_before = store.n_finished()
        self.not_scored: list[str] = []
        self._lock = run_dir.lock()
        self._said_waiting = False
        self.events.backfill()  # stale trials come at the first refresh, for callbacks to see

    @classmethod
    def open(
        cls,
        config: Config,
        run_dir: RunDir,
        *,
        space: Space | None = None,
        content_hashes: Mapping[str, str] | None = None,
        deadline: float | None = None,
        timeout_s: int = TIMEOUT_S,
    ) -> Search:
        """Start a search, or resume the one in the folder.

        Args:
            config: its configuration; written to the folder once the stored search is known to be
                the same one.
            run_dir: its folder; locked until `close`.
            space: the parsed search space; None: parse and check it here.
            content_hashes: hashes of data set and weights file, by a name for messages.
            deadline: when trials have to stop, by `time.monotonic()`.
            timeout_s: seconds without heartbeat after which a shared trial is stale.

        Raises:
            InputError: the folder is in use, cannot be written, or holds another search.
        """
        space = check_search(config) if space is None else space
        run_dir.lock()
        try:
            if not run_dir.exists:
                # A new folder gets its config first, so that a kill from here on can be resumed.
                write_config(config, run_dir)
            store = StudyStore(run_dir, config, space, content_hashes, timeout_s)
            search = cls(run_dir, store, deadline)
            # Only now is it known that the stored studies are of this search.
            write_config(config, run_dir)
            return search
        except BaseException:
            run_dir.unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.rules.interrupted = True
        elif error is not None:
            self.rules.fail(error_summary(error, with_type=True))
        self.close()

    def close(self) -> None:
        """Tell the callbacks that the search has ended, and release the folder."""
        self.callbacks.on_search_end()
        self.callbacks.clear()
        self.run_dir.unlock()

    def add_callback(self, callback: Callback) -> None:
        """From now on the callback receives every event."""
        self.callbacks.add(callback, self)

    # ---- trials ----

    def next_trial(self) -> TrialSpec | None:
        """The next trial to run, interrupted ones first.

        None when there is none now. `has_work` says whether there may be one later.
        """
        with self.storage_errors():
            self._lock.check()
            while not self.should_stop():
                self.refresh()
                resumed = bool(self.queue.resume_queue)
                try:
                    with self.store.one_step():
                        trial = self.queue.next_trial()
                    if trial is not None:
                        self.events.started(trial, resumed)
                    return trial
                except UpdateFinishedTrialError:
                    continue  # its heartbeat had stopped and another machine took it just now
        return None

    def report(self, record: Record) -> Decision:
        """Write a trial's record, tell its study, and decide.

        Args:
            record: as `training.loop` yields it.

        Returns:
            Decision.STOP when the trial has ended or is no longer ours, or the search has to stop.
        """
        run = record["run"]
        with self.storage_errors(run):
            self._lock.check()
            self.refresh()
            if run in self.queue.running:
                return self._report(self.queue.running[run], record)
        return Decision.STOP

    def report_process_died(self, run: str, reason: str = PROCESS_DIED) -> None:
        """A trial's process is gone: queue the trial again, or fail it when no retry is left."""
        trial = self.queue.running.get(run)
        if trial is None or self.should_stop():
            return
        with self.storage_errors(run):
            self._lock.check()
            attempt = self.queue.retry(run, reason)
            if attempt:
                self.events.retried(trial, reason, attempt)
            else:
                self._fail(trial, reason)

    def should_stop(self) -> bool:
        """Whether no further trial may start and running ones have to stop."""
        return self.rules.should_stop()

    def has_work(self) -> bool:
        """Whether a trial may follow later: a retry, a repeat, another machine's stale trial."""
        with self.storage_errors():
            remote = self.store.n_remote()
            if remote and not self.queue.running and not self._said_waiting:
                self._said_waiting = True
                self.log(f"waiting for {remote} trials of other machines (Ctrl-C: do not wait)")
            return bool(self.queue.running or remote)
        return False

    def _report(self, trial: TrialSpec, record: Record) -> Decision:
        event = record["event"]
        if event == "storage_error":
            raise OSError(record["errno"], record["reason"], record["path"])
        if event == "progress":
            self.events.progress(trial, record)
        else:
            self.rules.test_seconds = max(self.rules.test_seconds, record.get("test_seconds", 0.0))
            self.events.result(trial, record)
        if event == "failed":
            self._fail(trial, record["reason"])
            return Decision.STOP
        if event == "rung" and pruned_at_rung(self.store, trial, record):
            self._end(trial, TrialState.PRUNED)
            return Decision.STOP
        if event == "final":
            self._complete(trial, record)
            return Decision.STOP
        return Decision.STOP if self.should_stop() else Decision.CONTINUE

    def _complete(self, trial: TrialSpec, record: Record) -> None:
        value = record[self.config.search.metric]
        objective = self.config.search.second_objective
        if value is None:
            self._fail(trial, NO_GROUND_TRUTH)
        else:
            values = [value, record[objective]] if objective else [value]
            self._end(trial, TrialState.COMPLETE, values)

    def _fail(self, trial: TrialSpec, reason: str) -> None:
        trial.trial.set_user_attr(trial_states.FAILURE_REASON, reason)
        self._end(trial, TrialState.FAIL, reason=reason)
        self.rules.count_failure(reason)

    def _end(
        self,
        trial: TrialSpec,
        state: TrialState,
        values: list[float] | None = None,
        reason: str = "",
    ) -> None:
        """The study first: what it knows, the next start back-fills into the records."""
        self.queue.running.pop(trial.name, None)
        self.store.finish(trial, state, values)
        self.total = self.store.total_trials()
        self.events.finished(trial, trial_states.STATE_NAMES[state.name], reason)

    def log(self, text: str, important: bool = False) -> None:
        """Show the user a message."""
        self.callbacks.on_message(text, important)

    def refresh(self) -> None:
        """Once a minute: see what the other machines of a shared study have done."""
        if self.store.shared and self.remote.refresh():
            self.total = self.store.total_trials()
            self.callbacks.on_refresh()

    def interrupt(self) -> None:
        """Stop the trials; `finalize` still reports."""
        self.rules.interrupted = True
        self.log("interrupted: stopping the trials and writing the report", important=True)

    def finalize(self, trial_fn: TrialFn = run_trial, resources: Resources | None = None) -> None:
        """Score the winners on test, delete the losers' checkpoints, write the report.

        Args:
            trial_fn: runs a trial: run folder, CPUs, payload -> records.
            resources: what one run asks Ray for; None: runs in this process, without Ray.
        """
        with self.storage_errors():
            self._lock.check()
            self.remote.sync()
            finalize_search(self, trial_fn, resources)

    @contextlib.contextmanager
    def storage_errors(self, run: str | None = None) -> Iterator[None]:
        """If records or studies cannot be written, stop; what was written stays as it is.

        A write to `run` also fails when the trial was taken from us: its heartbeat had stopped.
        """
        try:
            yield
        except UpdateFinishedTrialError:
            if run is None:
                raise
            with self.storage_errors():  # to note it can fail too
                self.remote.mark_stale(run)
        except STORAGE_ERRORS as error:
            self.rules.fail(storage_error_message(self.store, error))
