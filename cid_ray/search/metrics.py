"""A running search in Ray's own metrics, for Prometheus and Grafana: gauges `ray_cid_...`, all set by the driver.

A worker's metrics vanish with it, so the one process that is told everything exports everything. Ray reports what was
set since its last report (every 10 seconds) and drops a gauge that two reports have missed. So what is true is set
again every second, and what is no longer true fades by itself; until then `trial_running` is 0, which every panel of
cluster/grafana/cid_ray.json asks for. There are no counters: Ray shows those of a process that has ended for ever, and
sums over the record are right from the start of a resumed search.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.trial import TrialState

from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.search.arms import Assignment
from cid_ray.search.studies import ENDED, HOW, Studies

BEAT_SECONDS = 1.0  # Ray's shortest report interval
ARM = ("ratio", "method")
TRIAL = (*ARM, "trial")
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {  # name -> what it says, and its tags beside `run`
    "trial_running": ("1 while a trial runs, 0 once it has ended", TRIAL),
    "trial_miou": ("mIoU on val at a running trial's last rung, in percent", TRIAL),
    "trial_loss": ("a running trial's losses: total, sup, pseudo, relation, style", (*TRIAL, "loss")),
    "trial_mask_ratio": ("share of the pool's pixels whose pseudo-label passes, 0 to 1", TRIAL),
    "trial_images_per_s": ("images of both kinds that a running trial is trained on per second", TRIAL),
    "best_miou": ("mIoU on val of the best trial of full length, in percent", ARM),
    "trials": ("trials by state: waiting, running, complete, pruned, failed", (*ARM, "state")),
    "trials_planned": ("trials of the whole search, repeats included", ()),
    "images_seen": ("images that all trials have been trained on", ARM),
    "skipped_steps": ("steps of all trials left out because their loss or gradient was not finite", ARM),
    "unreadable_images": ("images of the pool that a trial could not read, of all trials the most", ARM),
    "restarts": ("times that a trial went on from its checkpoint after its process had died", ARM),
    "spent_seconds": ("seconds since the search was begun or resumed", ()),
    "budget_seconds": ("seconds that --budget leaves to its trials; absent without", ()),
    "eta_seconds": ("seconds until all trials have ended or the budget has; absent until one has ended", ()),
}
SUMS = ("images_seen", "skipped_steps", "unreadable_images")
Tags = tuple[tuple[str, str], ...]


class Metrics:
    """A search.watch.Listener. `deadline` is an instant of time.monotonic(), as Watch has it."""

    def __init__(self, out: Path, studies: Studies, deadline: float | None):
        from ray.util.metrics import Gauge

        run = {"run": out.resolve().name}
        self.gauges = {
            name: Gauge(f"cid_{name}", text, ("run", *tags)).set_default_tags(run)
            for name, (text, tags) in GAUGES.items()
        }
        self.studies, self.deadline, self.started = studies, deadline, time.monotonic()
        self.trials: dict[str, dict[str, str]] = {}  # those that run -> their tags
        self.points: dict[tuple[str, Tags], float] = {}  # what is true now
        self.known: dict[tuple[str, str], float] = {}  # (sum, run) -> what the sum has of that run
        if deadline is not None:
            self.put("budget_seconds", deadline - self.started)
        self.count_trials()
        self.rank()
        self.done_before = self.done
        for row in of_event(read_rows(out), "rung"):
            self.sum_up(row, {"ratio": row["ratio"], "method": row["method"]})
        self.lock, self.over = threading.Lock(), threading.Event()  # of points; no more beats
        self.thread = threading.Thread(target=self.beat, daemon=True, name="cid-ray-metrics")
        self.thread.start()

    # ---- what the search tells ----

    @contextmanager
    def news(self) -> Iterator[None]:
        """All of it or nothing is exported; after an error nothing more is, for nobody would be told of an end."""
        with self.lock:
            try:
                yield
            except Exception:
                self.over.set()
                raise

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        arm = assignment.arm
        with self.news():
            tags = self.trials[assignment.name] = {"ratio": arm.ratio, "method": arm.method, "trial": assignment.name}
            self.put("trial_running", 1, **tags)
            self.count_trials()

    def row(self, row: Row) -> None:
        tags = self.trials.get(row["run"])
        if tags is None:
            return
        with self.news():
            for name, value in row.get("losses", {}).items():
                if name == "mask_ratio":
                    self.put("trial_mask_ratio", value, **tags)
                else:
                    self.put("trial_loss", value, **tags, loss=name)
            self.put("trial_images_per_s", row.get("images_per_s"), **tags)
            self.put("trial_miou", row.get(self.studies.config.search.metric), **tags)
            self.sum_up(row, tags)

    def retried(self, name: str, reason: str, again: int) -> None:
        self.ended(name, "retried", reason)

    def ended(self, name: str, how: str, reason: str) -> None:
        with self.news():
            self.forget(name)
        self.looked()

    def looked(self) -> None:
        with self.news():
            self.count_trials()
            self.rank()

    def close(self) -> None:
        """The last word; trials that were stopped wait for a resume."""
        self.over.set()
        self.thread.join()
        for name in list(self.trials):
            self.forget(name)
        self.count_trials()
        self.export()

    # ---- what is true now ----

    def put(self, name: str, value: float | None, **tags: str) -> None:
        """None, of a loss or score that is no number, leaves the last value."""
        if value is not None:
            self.points[name, tuple((key, tags[key]) for key in GAUGES[name][1])] = float(value)

    def forget(self, trial: str) -> None:
        """The trial no longer runs: said once, as its other gauges are not set again."""
        tags = self.trials.pop(trial, None)
        if tags:
            self.points = {point: value for point, value in self.points.items() if ("trial", trial) not in point[1]}
            self.gauges["trial_running"].set(0, tags)

    def sum_up(self, row: Row, tags: dict[str, str]) -> None:
        """What a run's row adds to the sums of its arm; a row that is seen twice adds nothing."""
        arm = tuple((key, tags[key]) for key in ARM)
        for name in ("images_seen", "skipped_steps"):
            before = self.known.get((name, row["run"]), 0)
            now = self.known[name, row["run"]] = row.get(name, before)
            self.points[name, arm] = self.points.get((name, arm), 0) + now - before
        most = self.points.get(("unreadable_images", arm), 0)
        self.points["unreadable_images", arm] = max(most, row.get("unreadable", 0))

    def count_trials(self) -> None:
        """From the studies, which are right after a kill too. An interrupted trial waits; one elsewhere may run."""
        here = Counter((tags["ratio"], tags["method"]) for tags in self.trials.values())
        states: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        restarts: Counter[tuple[str, str]] = Counter()
        for arm in self.studies.studies:
            key, trials = (arm.ratio, arm.method), self.studies.trials(arm)
            ended = [HOW[trial.state.name] for trial in trials if trial.state in ENDED]
            elsewhere = [t for t in trials if t.state == TrialState.RUNNING and not self.studies.is_mine(t)]
            states[key].update(ended, running=len(elsewhere))
            states[key].update(waiting=max(0, self.studies.wanted(arm) - len(ended) - len(elsewhere)))
            restarts[key] += sum(int(trial.user_attrs.get("retries", 0)) for trial in trials)
        for (ratio, method), count in states.items():
            tags = {"ratio": ratio, "method": method}
            count.update(running=here[ratio, method], waiting=-min(here[ratio, method], count["waiting"]))
            for state in ("waiting", "running", *HOW.values()):
                self.put("trials", count[state], **tags, state=state)
            self.put("restarts", restarts[ratio, method], **tags)
            for name in SUMS:
                self.points.setdefault((name, tuple(tags.items())), 0.0)
        self.planned = self.studies.total()
        self.done = sum(count[state] for count in states.values() for state in HOW.values())
        self.put("trials_planned", self.planned)

    def rank(self) -> None:
        for arm in self.studies.search_arms():
            for best in self.studies.ranked(arm)[:1]:
                self.put("best_miou", best.values[0], ratio=arm.ratio, method=arm.method)

    def tell_time(self) -> None:
        now = time.monotonic()
        spent, done = now - self.started, self.done - self.done_before
        self.put("spent_seconds", spent)
        if done:
            left = spent / done * (self.planned - self.done)
            if self.deadline is not None:
                left = min(left, self.deadline - now)
            self.put("eta_seconds", max(0.0, left))

    # ---- to Ray ----

    def beat(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            with self.lock:
                self.export()

    def export(self) -> None:
        self.tell_time()
        for (name, tags), value in self.points.items():
            self.gauges[name].set(value, dict(tags))
