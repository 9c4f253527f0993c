"""How a search stands, as numbers: for every ratio and method what has ended, what runs, the best so far and the ETA.

A listener of the search (search/watch.py). What has ended is counted in the studies: that of earlier processes and of
other machines too. What runs is what it is told: the trials of this process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from cid_ray.results.record import Row
from cid_ray.search.arms import Assignment
from cid_ray.search.studies import ENDED, HOW, Studies

Place = tuple[str, str]  # ratio, method


@dataclass(frozen=True)
class Running:
    """A trial that runs: where it is, its mIoU at its last rung, seconds that are left to it."""

    name: str
    steps: int
    step: int = 0
    value: float | None = None
    eta: float | None = None


@dataclass(frozen=True)
class Line:
    """One ratio and method. Values are of `search.metric`, over trials of full length; `over` is against supervised."""

    ratio: str  # "1/16 (23)"
    method: str
    wanted: int
    ended: Mapping[str, int]  # complete, pruned, failed -> trials
    running: tuple[Running, ...]
    best: float | None
    over: float | None
    eta: float | None  # seconds, at the pace of this arm so far; None: nothing to go by, or nothing left
    repeats: tuple[int, int]  # of its best runs: ended, wanted


@dataclass
class Arm:
    wanted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    best: float | None = None
    repeats: int = 0
    repeats_wanted: int = 0
    since: float | None = None  # when its first trial in this process began
    before: int = 0  # trials that had ended then


class Standing:
    def __init__(self, studies: Studies, names: Mapping[str, str], now: Callable[[], float] = time.monotonic):
        self.studies, self.names, self.now = studies, names, now
        self.metric = studies.config.search.metric
        self.arms: dict[Place, Arm] = {}
        self.running: dict[str, tuple[Place, bool, Running]] = {}  # name -> where, whether it repeats another, how far
        confirm = studies.config.search.confirm
        for arm in studies.search_arms():
            candidates = min(confirm.top, studies.wanted(arm)) if arm.method == "cid" else 1
            self.arms[arm.ratio, arm.method] = Arm(studies.wanted(arm), repeats_wanted=confirm.repeats * candidates)
        self.looked()

    # ---- what a listener is told ----

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        arm = assignment.arm
        place = arm.ratio, arm.method
        if self.arms[place].since is None:
            self.arms[place].since, self.arms[place].before = self.now(), self.arms[place].ended.total()
        running = Running(assignment.name, assignment.config.train.steps)
        self.running[assignment.name] = place, bool(arm.confirms), running

    def row(self, row: Row) -> None:
        if row["run"] not in self.running:
            return
        place, repeats, running = self.running[row["run"]]
        value = row.get(self.metric)
        if row["event"] in ("progress", "rung"):
            eta = row["seconds"] / max(1, row["step"]) * (running.steps - row["step"])
            kept = running.value if value is None else value
            self.running[row["run"]] = place, repeats, replace(running, step=row["step"], value=kept, eta=eta)

    def retried(self, name: str, reason: str, again: int) -> None:
        self.running.pop(name, None)

    def ended(self, name: str, how: str, reason: str) -> None:
        self.running.pop(name, None)
        self.looked()

    def looked(self) -> None:
        for kept in self.arms.values():
            kept.repeats = 0
        for arm in self.studies.studies:
            kept, ended = self.arms[arm.ratio, arm.method], self.studies.trials(arm, *ENDED)
            if arm.confirms:
                kept.repeats += len(ended)
                continue
            kept.ended = Counter(HOW[trial.state.name] for trial in ended)
            kept.best = next((trial.values[0] for trial in self.studies.ranked(arm)), None)

    def close(self) -> None:
        """The last numbers stay."""

    # ---- what it shows ----

    def lines(self) -> list[Line]:
        return [self.line(place) for place in sorted(self.arms, key=lambda p: list(self.names).index(p[0]))]

    def line(self, place: Place) -> Line:
        ratio, method = place
        arm, supervised = self.arms[place], self.arms.get((ratio, "supervised"))
        base = supervised.best if supervised and method != "supervised" else None
        left = arm.wanted - arm.ended.total()
        done = arm.ended.total() - arm.before
        pace = (self.now() - arm.since) / done if arm.since is not None and done else None
        return Line(
            self.names[ratio], method, arm.wanted, dict(arm.ended),
            tuple(running for where, _, running in self.running.values() if where == place),
            arm.best, None if arm.best is None or base is None else arm.best - base,
            pace * left if pace and left else None, (arm.repeats, arm.repeats_wanted),
        )  # fmt: skip
