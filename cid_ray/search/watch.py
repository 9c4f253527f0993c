"""Who is told what happens in a search: shows it, keeps the rows, and knows when the search has to stop.

It stops for Ctrl-C, for the time budget, after `search.max_failures` failed trials of one kind, and when the run's
folder can no longer be written or the database of its studies is lost. Trials that are then running stay RUNNING in
their study: a resume goes on with them.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError

from cid_ray import checkpoints, places
from cid_ray.home import Home
from cid_ray.results.record import Row, Rows, of_event, read_rows
from cid_ray.search.arms import Assignment
from cid_ray.search.journal import Hold
from cid_ray.search.shared import reason_of
from cid_ray.search.studies import HOW, Studies


class Screen(Protocol):
    """What of run.display.Display a search needs."""

    def say(self, text: str, always: bool = False) -> None: ...

    def move(self, done: float, text: str = "") -> None: ...

    def rung(self, row: Row, name: str = "") -> None: ...


class Listener(Protocol):
    """Who else is told, after the record: metrics, loggers. Beside the search and no part of it, in its process."""

    def begun(self, assignment: Assignment, resumed: bool) -> None: ...

    def row(self, row: Row) -> None:
        """Every row of a trial; those of `progress` (run, losses, speed) are told here and not kept.

        The final row of a run that the search has chosen comes once more, with its test score.
        """

    def retried(self, name: str, reason: str, again: int) -> None:
        """It runs no more, but will again; `again` is 0 when its machine has lost it to another."""

    def ended(self, name: str, how: str, reason: str) -> None: ...

    def looked(self) -> None:
        """Of a shared search, about every minute: other machines may have begun and ended trials."""

    def close(self) -> None: ...


class Watch:
    def __init__(self, home: Home, hold: Hold, studies: Studies, screen: Screen, deadline: float | None):
        self.listeners: list[Listener] = []
        self.home, self.hold, self.studies, self.screen, self.deadline = home, hold, studies, screen, deadline
        self.rows, self.total = Rows(home.here), studies.total()
        self.ended_before = len(studies.ended())
        self.started, self.test_seconds, self.interrupts = time.monotonic(), 0.0, 0
        self.failures: Counter[str] = Counter()
        self.reason = ""  # why the search stopped early and has failed
        self.told_lost = {row["run"] for row in of_event(read_rows(home.here), "lost")}
        self.alone = False  # nothing is left to begin here, while others work
        self.catch_up()

    def catch_up(self) -> None:
        """Write what the study knows and the rows do not: ends that a kill left out, and trials of other machines."""
        for name, folder in self.studies.vigil.lost().items():
            self.lost(name, folder)
        ended = self.studies.ended()  # before the rows are read: of what has ended all are there
        known = {row["run"] for row in of_event(read_rows(self.home.here), "trial")}
        for row in [row for row in self.studies.kept_rows() if row["run"] not in known]:
            self.rows.add(row)
        for name, state in ended.items():
            if name not in known:
                self.rows.add({"event": "trial", "run": name, "state": HOW[state.name], "reason": ""})

    # ---- when to stop ----

    def interrupt(self, *_: Any) -> None:
        """Ctrl-C once: stop the trials and report; twice: leave at once."""
        self.interrupts += 1
        if self.interrupts > 1:
            os._exit(130)
        self.screen.say("interrupted: stopping the trials and writing the report (Ctrl-C again leaves at once)", True)

    def terminate(self, *_: Any) -> None:
        """SIGTERM, of `ray job stop` and of batch systems, which kill soon after: leave at once, as a resume can."""
        self.screen.say(f"told to end; go on with: python -m cid_ray.tune --resume {self.home}", True)
        os._exit(130)

    def stopping(self) -> bool:
        late = self.deadline is not None and time.monotonic() + self.test_seconds > self.deadline
        return bool(self.interrupts or self.reason) or late

    def check(self) -> None:
        """OSError when the run's folder is no longer there."""
        self.hold.check()

    def broken(self, error: Exception) -> None:
        """Record or study cannot be written: nothing more is begun, nothing that was kept is touched."""
        what = getattr(error, "strerror", None) or str(error).splitlines()[0]
        name, place = getattr(error, "filename", None), f"{self.home} cannot be written"
        if self.studies.shared and isinstance(error, StorageInternalError):
            place = f"the studies' database, {self.studies.config.study.storage}, does not answer"
            what = reason_of(error.__cause__ or error)
        where = f" ({name})" if name else ""
        self.reason = self.reason or f"{place}: {what}{where}; the studies are as they were"

    # ---- other machines of a shared study ----

    def look(self) -> None:
        """What they have done, about every minute."""
        if self.studies.vigil.look():
            self.catch_up()
            self.total = self.studies.total()
            self.screen.move(len(self.studies.ended()))
            self.tell("looked")

    def lost(self, name: str, folder: str = "") -> None:
        """A trial was taken from a machine that had fallen silent; it may have been this one, and running."""
        self.studies.live.pop(name, None)
        if name in self.told_lost:
            return
        self.told_lost.add(name)
        reason = (
            f"its machine ({folder or self.home}) was silent for {self.studies.silent} s: its settings are tried again"
        )
        self.screen.say(f"{name}: lost: {reason}", always=True)
        self.rows.add({"event": "lost", "run": name, "reason": reason, "at": time.time()})
        self.tell("retried", name, reason, 0)

    def staying(self) -> bool:
        """Whether there may be more to begin while trials run: retries, repeats of the best, what others lose."""
        others = self.studies.elsewhere()
        if others and not self.studies.live and not self.alone:
            self.alone = True
            self.screen.say(f"nothing is left to begin; waiting for {others} trials of other machines (Ctrl-C: not to)")
        return bool(self.studies.live or others)

    # ---- what run_trials tells ----

    def tell(self, what: str, *news: Any) -> None:
        """Hand news on; a listener that fails is left out from then on."""
        for listener in list(self.listeners):
            try:
                getattr(listener, what)(*news)
            except Exception as error:
                self.listeners.remove(listener)
                told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                who = getattr(listener, "name", type(listener).__name__)
                self.screen.say(f"warning: {who} is left out: {told}", always=True)

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        self.tell("begun", assignment, resumed)
        shown = ", ".join(f"{k.split('.')[-1]}={_short(v)}" for k, v in assignment.params.items())
        from_ratio = assignment.trial.user_attrs.get("carried_over_from")
        carried = f" (the best settings of {from_ratio})" if from_ratio else ""
        self.screen.say(f"{assignment.name}: {'resumed' if resumed else 'begun'}  {shown}{carried}")
        self.home.send()  # before it runs: a resume must know it

    def row(self, row: Row) -> None:
        if row.get("warning"):
            self.screen.say(f"{row['run']}: warning: {row['warning']}", always=True)
        if row["event"] == "progress":
            if row.get("warning"):  # a rung's stands in its own row
                self.rows.add({"event": "warning", "run": row["run"], "name": row["warning"], "at": time.time()})
            return self.tell("row", row)
        self.test_seconds = max(self.test_seconds, row.get("test_seconds", 0.0))
        live = self.studies.live.get(row["run"])
        row = {**row, **(live.marks if live else {})}
        self.rows.add(row)
        self.studies.keep(row["run"], row)
        if row["event"] == "rung":
            self.screen.rung(row, row["run"])
        self.home.send()
        self.tell("row", row)

    def tested(self, row: Row) -> None:
        """The final row of a run that has ended, with its test score."""
        self.rows.add(row)
        self.tell("row", row)

    def retried(self, name: str, reason: str, again: int) -> None:
        self.screen.say(
            f"{name}: {reason}; it goes on from its last checkpoint (retry {again} of "
            f"{self.studies.config.search.retries})",
            always=True,
        )
        self.rows.add({"event": "retried", "run": name, "name": f"retry {again}", "reason": reason, "at": time.time()})
        self.tell("retried", name, reason, again)

    def ended(self, name: str, how: str, reason: str = "") -> None:
        done, spent = len(self.studies.ended()), time.monotonic() - self.started
        self.total = self.studies.total()
        left = spent / max(1, done - self.ended_before) * (self.total - done)
        self.rows.add({"event": "trial", "run": name, "state": how, "reason": reason, "at": time.time()})
        self.screen.move(done, f"{name} {how}")
        self.screen.say(
            f"{name}: {how}{': ' + reason if reason else ''}  [{done}/{self.total} trials, ETA {left:.0f} s]",
            always=how == "failed",
        )
        if how == "pruned" or (how == "complete" and "-pair" in name):
            places.remove(checkpoints.folder_of(self.studies.config, self.home.name, name))
        if how == "failed":
            self.count_failure(reason)
        self.home.send()
        self.tell("ended", name, how, reason)

    def count_failure(self, reason: str) -> None:
        """Too many failures of one kind (the reason without its numbers) end the search."""
        kind = re.sub(r"[-+]?\d[\d.e+-]*|\bnan\b|\binf\b", "#", reason)
        self.failures[kind] += 1
        if self.failures[kind] >= self.studies.config.search.max_failures:
            self.reason = self.reason or (
                f"{self.failures[kind]} trials failed in the same way ({reason}); mend the cause or narrow "
                f"search.space (search.max_failures is {self.studies.config.search.max_failures})"
            )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
