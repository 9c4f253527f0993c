"""A running search in Ray's own metrics, for Prometheus and Grafana: gauges `ray_cid_...`, all set
by the driver.

A worker's metrics vanish with it, so the process that receives every event exports everything. Ray
reports what was set since its last report (every 10 seconds) and drops a gauge that two reports
have missed. So valid values are set again every second, and outdated ones fade by themselves. Until
they have, `trial_running` is 0, which every panel of cluster/grafana/cid_ray.json asks for. There
are no counters: Ray shows those of an ended process for ever, and sums over the records are right
from the start of a resumed search.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.trial import TrialState

from cid_ray.callbacks.base import Callback
from cid_ray.results.progress import remaining_seconds
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.controller import Search
from cid_ray.search.trial_spec import StudyKey, TrialSpec
from cid_ray.search.trial_states import PREEMPTIONS, RETRIES, STATE_NAMES

EXPORT_INTERVAL_S = 1.0  # Ray's shortest report interval
# Running trials that have gauges of their own, nine each: every second all are set, and Prometheus
# keeps every series. Of more concurrent trials those that find a free place have them.
MAX_TRIALS = 200
STUDY_TAGS = ("ratio", "method")
TRIAL_TAGS = (*STUDY_TAGS, "trial")
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> help text, tags besides `search`
    "trial_running": ("1 while a trial runs, 0 once it has finished", TRIAL_TAGS),
    "trial_miou": ("mIoU on val at a running trial's last rung, in percent", TRIAL_TAGS),
    "trial_loss": (
        "losses of a running trial: total, sup, pseudo, relation, style",
        (*TRIAL_TAGS, "loss"),
    ),
    "trial_mask_ratio": (
        "fraction of the unlabeled pixels whose pseudo-label passes the threshold, 0 to 1",
        TRIAL_TAGS,
    ),
    "trial_images_per_s": (
        "training throughput of a running trial: labeled and unlabeled images per second",
        TRIAL_TAGS,
    ),
    "best_miou": ("mIoU on val of the best completed trial, in percent", STUDY_TAGS),
    "trials": (
        "trials by state: waiting, running, complete, pruned, failed",
        (*STUDY_TAGS, "state"),
    ),
    "trials_planned": ("trials of the whole search, repeats included", ()),
    "images_seen": ("images that all trials have been trained on", STUDY_TAGS),
    "skipped_steps": (
        "steps of all trials skipped because their loss or gradient was not finite",
        STUDY_TAGS,
    ),
    "unreadable_images": (
        "pool images that a trial could not read: the maximum over all trials",
        STUDY_TAGS,
    ),
    "retries": (
        "times that a trial resumed after its process had died or its node was taken",
        STUDY_TAGS,
    ),
    "elapsed_seconds": ("seconds since the search was started or resumed", ()),
    "budget_seconds": ("seconds that --budget leaves for trials; absent without it", ()),
    "eta_seconds": (
        "seconds until all trials have finished or the budget is spent; absent until one has "
        "finished",
        (),
    ),
}
SUMS = ("images_seen", "skipped_steps", "unreadable_images")
Tags = tuple[tuple[str, str], ...]


class PrometheusMetrics(Callback):
    """Exports a search as gauges."""

    def on_search_start(self, search: Search) -> None:
        from ray.util.metrics import Gauge

        default_tags = {"search": search.run_dir.basename}
        self.gauges = {
            name: Gauge(f"cid_{name}", text, ("search", *tags)).set_default_tags(default_tags)
            for name, (text, tags) in GAUGES.items()
        }
        self.store = search.store
        self.deadline = search.rules.deadline
        self.started = time.monotonic()
        self.running: dict[str, dict[str, str]] = {}  # run name -> its tags
        self.here: Counter[tuple[str, str]] = Counter()  # running trials by study
        self.shown: dict[str, set[tuple[str, Tags]]] = {}  # run name -> its values, if it has any
        self.values: dict[tuple[str, Tags], float] = {}  # what is valid now
        self.counted: dict[
            tuple[str, str], float
        ] = {}  # (sum, run) -> what the sum has of that run
        if self.deadline is not None:
            self._put("budget_seconds", self.deadline - self.started)
        self._count_retries()
        self._count_trials()
        self._update_best()
        self.done_before = self.done
        for record in of_event(read_records(search.run_dir.local, warn=False), "rung"):
            self._add_to_sums(record, {"ratio": record["ratio"], "method": record["method"]})
        self.lock = threading.Lock()  # of `values`
        self.stop = threading.Event()
        self.thread = threading.Thread(
            target=self._export_loop, daemon=True, name="cid-ray-metrics"
        )
        self.thread.start()

    # ---- events ----

    @contextmanager
    def _update(self) -> Iterator[None]:
        """An event is exported as a whole. After an error nothing more is: ends would no longer be
        heard of.
        """
        with self.lock:
            try:
                yield
            except Exception:
                self.stop.set()
                raise

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        with self._update():
            tags = {"ratio": trial.key.ratio, "method": trial.key.method, "trial": trial.name}
            self.running[trial.name] = tags
            self.here[trial.key.ratio, trial.key.method] += 1
            if len(self.shown) < MAX_TRIALS:
                self.shown[trial.name] = set()
            self._put("trial_running", 1, **tags)
            self._count_trials()

    def on_trial_result(self, record: Record) -> None:
        tags = self.running.get(record["run"])
        if tags is None:
            return
        with self._update():
            for name, value in record.get("losses", {}).items():
                if name == "mask_ratio":
                    self._put("trial_mask_ratio", value, **tags)
                else:
                    self._put("trial_loss", value, **tags, loss=name)
            self._put("trial_images_per_s", record.get("images_per_s"), **tags)
            self._put("trial_miou", record.get(self.store.config.search.metric), **tags)
            self._add_to_sums(record, tags)

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self._ended(trial.name)

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self._ended(trial.name)

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self.retries[trial.key.ratio, trial.key.method] += 1
        self._ended(trial.name)

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._ended(run)

    def on_refresh(self) -> None:
        with self._update():
            self._count_retries()
            self._count_trials()
            self._update_best()

    def on_search_end(self) -> None:
        """Export a last time; stopped trials wait for a resume."""
        self.stop.set()
        self.thread.join()
        for run in list(self.running):
            self._forget(run)
        self._count_trials()
        self._export()

    def _ended(self, run: str) -> None:
        with self._update():
            self._forget(run)
            self._count_trials()
            self._update_best()

    # ---- valid values ----

    def _put(self, name: str, value: float | None, **tags: str) -> None:
        """None (a loss or score that is NaN) leaves the last value."""
        if value is None:
            return
        point = (name, tuple((key, tags[key]) for key in GAUGES[name][1]))
        if "trial" in tags:
            if tags["trial"] not in self.shown:
                return
            self.shown[tags["trial"]].add(point)
        self.values[point] = float(value)

    def _forget(self, run: str) -> None:
        """The trial no longer runs: exported once; its other gauges are not set again."""
        tags = self.running.pop(run, None)
        if tags:
            self.here[tags["ratio"], tags["method"]] -= 1
        if tags and run in self.shown:
            for point in self.shown.pop(run):
                del self.values[point]
            self.gauges["trial_running"].set(0, tags)

    def _add_to_sums(self, record: Record, tags: dict[str, str]) -> None:
        """Add what a record has more than the run's last one; a record that comes twice adds
        nothing.
        """
        run = record["run"]
        study = tuple((key, tags[key]) for key in STUDY_TAGS)
        for name in ("images_seen", "skipped_steps"):
            before = self.counted.get((name, run), 0)
            now = record.get(name, before)
            self.counted[name, run] = now
            self.values[name, study] = self.values.get((name, study), 0) + now - before
        most = self.values.get(("unreadable_images", study), 0)
        self.values["unreadable_images", study] = max(most, record.get("unreadable", 0))

    def _count_trials(self) -> None:
        """Counted in the studies, which are right after a kill too.

        An interrupted trial waits; one of another machine may run.
        """
        store = self.store
        states: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for key in store.studies:
            counts = store.state_counts(key)
            finished = {name: counts[state] for state, name in STATE_NAMES.items()}
            remote = self._n_remote(key)
            waiting = max(0, store.n_trials(key) - sum(finished.values()) - remote)
            states[key.ratio, key.method].update(finished, running=remote, waiting=waiting)
        for (ratio, method), count in states.items():
            tags = {"ratio": ratio, "method": method}
            running = self.here[ratio, method]
            count.update(running=running, waiting=-min(running, count["waiting"]))
            for state in ("waiting", "running", *STATE_NAMES.values()):
                self._put("trials", count[state], **tags, state=state)
            self._put("retries", self.retries[ratio, method], **tags)
            for name in SUMS:
                self.values.setdefault((name, tuple(tags.items())), 0.0)
        self.planned = store.total_trials()
        self.done = sum(c[state] for c in states.values() for state in STATE_NAMES.values())
        self._put("trials_planned", self.planned)

    def _n_remote(self, key: StudyKey) -> int:
        """Trials of a shared study that another machine runs."""
        if not self.store.shared:
            return 0
        running = self.store.trials(key, TrialState.RUNNING)
        return sum(not self.store.is_own(trial) for trial in running)

    def _count_retries(self) -> None:
        """From all trials of the studies: at the start, and when other machines have worked."""
        self.retries: Counter[tuple[str, str]] = Counter()
        for key in self.store.studies:
            trials = self.store.trials(key)
            count = sum(
                int(trial.user_attrs.get(kind, 0))
                for trial in trials
                for kind in (RETRIES, PREEMPTIONS)
            )
            self.retries[key.ratio, key.method] += count

    def _update_best(self) -> None:
        for key in self.store.search_keys():
            self._put("best_miou", self.store.best_value(key), ratio=key.ratio, method=key.method)

    def _update_time(self) -> None:
        now = time.monotonic()
        spent = now - self.started
        self._put("elapsed_seconds", spent)
        left = remaining_seconds(
            spent, self.done - self.done_before, self.planned - self.done_before
        )
        if left is not None and self.deadline is not None:
            left = max(0.0, min(left, self.deadline - now))
        self._put("eta_seconds", left)

    # ---- to Ray ----

    def _export_loop(self) -> None:
        while not self.stop.wait(EXPORT_INTERVAL_S):
            with self.lock:
                self._export()

    def _export(self) -> None:
        self._update_time()
        for (name, tags), value in self.values.items():
            self.gauges[name].set(value, dict(tags))
