"""A search on a terminal: the table of its standing by ratio and method, live, above the bar of run/display.py.

With -v it also says where trials are between their rungs, and the traceback of those that raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from rich.table import Table

from cid_ray.results.record import Row
from cid_ray.run.display import Display, percent
from cid_ray.search.arms import Assignment
from cid_ray.search.standing import Line, Running, Standing
from cid_ray.search.studies import Studies

RUNNING_SHOWN = 3  # trials of one ratio and method


class Terminal:
    """A listener of a search (search/watch.py)."""

    def __init__(self, display: Display, studies: Studies, names: Mapping[str, str]):
        self.display, self.standing = display, Standing(studies, names)
        self.lines = self.standing.lines()
        display.above = lambda: draw(self.lines)  # in the thread that refreshes: it reads whole lists only

    def begun(self, assignment: Assignment, resumed: bool) -> None:
        self.standing.begun(assignment, resumed)
        self.lines = self.standing.lines()

    def row(self, row: Row) -> None:
        if row["event"] == "progress":
            self.display.progress(row, row["run"])
        elif row["event"] == "failed":
            self.display.detail(f"{row['run']}:\n{row['traceback'].rstrip()}")
        self.standing.row(row)
        self.lines = self.standing.lines()

    def retried(self, name: str, reason: str, again: int) -> None:
        self.standing.retried(name, reason, again)
        self.lines = self.standing.lines()

    def ended(self, name: str, how: str, reason: str) -> None:
        self.standing.ended(name, how, reason)
        self.lines = self.standing.lines()

    def looked(self) -> None:
        self.standing.looked()
        self.lines = self.standing.lines()

    def close(self) -> None:
        """The display takes the table away."""


def draw(lines: list[Line]) -> Table:
    """One row for every ratio and method; below it the trials that run: their step, the mIoU of their last rung."""
    repeated = any(line.repeats[1] for line in lines)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("labels", "method", "done", "pruned", "failed", "val mIoU", "over sup.", "ETA"):
        grid.add_column(name, justify="left" if name in ("labels", "method") else "right", no_wrap=True)
    if repeated:
        grid.add_column("repeats", justify="right", no_wrap=True)
    for line in lines:
        grid.add_row(*row_of(line)[: len(grid.columns)])
        for running in line.running[-RUNNING_SHOWN:]:
            grid.add_row(*row_of_trial(running))
        if len(line.running) > RUNNING_SHOWN:
            grid.add_row("", f"and {len(line.running) - RUNNING_SHOWN} more")
    return grid


def row_of(line: Line) -> tuple[str, ...]:
    ended = line.ended
    return (
        line.ratio, line.method, f"{sum(ended.values())}/{line.wanted}",
        str(ended.get("pruned", 0)), str(ended.get("failed", 0)),
        "" if line.best is None else f"best {line.best:.2f}", "" if line.over is None else f"{line.over:+.2f}",
        clock(line.eta), "{}/{}".format(*line.repeats),
    )  # fmt: skip


def row_of_trial(running: Running) -> tuple[str, ...]:
    value = percent(running.value)
    return "", f"- {running.name}", f"{running.step}/{running.steps}", "", "", value, "", clock(running.eta)


def clock(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
