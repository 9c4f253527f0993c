"""A search on a terminal and in log.txt: a line per trial and rung, and a live table of ratios and
methods.

With -v also where trials are between rungs, and the traceback of those that raise.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from rich.table import Table

from cid_ray.callbacks.base import Callback
from cid_ray.cli.console import RunConsole, format_number
from cid_ray.config.plain_text import printable
from cid_ray.results.progress import remaining_seconds
from cid_ray.results.records import Record
from cid_ray.search.controller import Search
from cid_ray.search.status import RunningTrial, SearchStatus, StudyStatus
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.search.trial_states import PREEMPTIONS, WARM_STARTED_FROM

MAX_RUNNING_SHOWN = 3  # running trials of one ratio and method in the table


class SearchConsole(Callback):
    """Shows a search on a `RunConsole`.

    Args:
        console: where lines and the table go.
        status: the numbers of the table; add it to the search before this callback.
    """

    def __init__(self, console: RunConsole, status: SearchStatus):
        self.console = console
        self.status = status
        self.started = time.monotonic()
        self.studies = status.studies()
        # Called in rich's refresh thread: it only reads a list that is replaced as a whole.
        console.header = lambda: render_table(self.studies)

    def on_search_start(self, search: Search) -> None:
        self.search = search

    def on_trial_start(self, trial: TrialSpec, resumed: bool) -> None:
        self._update()
        params = ", ".join(f"{k.split('.')[-1]}={_short(v)}" for k, v in trial.params.items())
        source = trial.trial.user_attrs.get(WARM_STARTED_FROM)
        warm = f" (the best hyperparameters of {source})" if source else ""
        verb = "resumed" if resumed else "started"
        self.console.log(f"{trial.name}: {verb}  {params}{warm}".rstrip())

    def on_trial_result(self, record: Record) -> None:
        self._update()
        run = record["run"]
        if record.get("warning"):
            self.console.log(f"{run}: warning: {record['warning']}", always=True)
        if record["event"] == "progress":
            self.console.show_progress(record, run)
        elif record["event"] == "rung":
            self.console.show_rung(record, run)
        elif record["event"] == "failed":
            self.console.detail(f"{run}:\n{record['traceback'].rstrip()}")

    def on_trial_complete(self, trial: TrialSpec, state: str) -> None:
        self._finished(trial, state)

    def on_trial_error(self, trial: TrialSpec, reason: str) -> None:
        self._finished(trial, "failed", reason)

    def on_trial_retry(self, trial: TrialSpec, reason: str, attempt: int) -> None:
        self._update()
        retries = self.search.config.search.retries + trial.trial.user_attrs.get(PREEMPTIONS, 0)
        self.console.log(
            f"{trial.name}: {reason}; it resumes from its last checkpoint (retry {attempt} of "
            f"{retries})",
            always=True,
        )

    def on_trial_stale(self, run: str, reason: str) -> None:
        self._update()
        self.console.log(f"{run}: stale: {reason}", always=True)

    def on_refresh(self) -> None:
        self._update()
        self.console.advance(self.search.store.n_finished())

    def on_message(self, text: str, important: bool = False) -> None:
        self.console.log(text, always=important)

    def _finished(self, trial: TrialSpec, state: str, reason: str = "") -> None:
        self._update()
        search = self.search
        done = search.store.n_finished()
        eta = remaining_seconds(
            time.monotonic() - self.started,
            max(1, done - search.finished_before),
            search.total - search.finished_before,
        )
        why = f": {reason}" if reason else ""
        self.console.advance(done, f"{trial.name} {state}")
        self.console.log(
            f"{trial.name}: {state}{why}  [{done}/{search.total} trials, ETA {eta or 0:.0f} s]",
            always=state == "failed",
        )

    def _update(self) -> None:
        self.studies = self.status.studies()


def render_table(studies: list[StudyStatus]) -> Table:
    """One line for every ratio and method; below it its running trials with step and mIoU at their
    last rung.
    """
    with_repeats = any(study.repeats[1] for study in studies)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = ["labels", "method", "done", "pruned", "failed", "val mIoU", "over sup.", "ETA"]
    for name in columns + ["repeats"] * with_repeats:
        justify: Any = "left" if name in ("labels", "method") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for study in studies:
        table.add_row(*map(printable, study_cells(study)[: len(table.columns)]))
        for trial in study.running[-MAX_RUNNING_SHOWN:]:
            table.add_row(*map(printable, trial_cells(trial)))
        if study.n_running > MAX_RUNNING_SHOWN:
            table.add_row("", f"and {study.n_running - MAX_RUNNING_SHOWN} more")
    return table


def study_cells(study: StudyStatus) -> tuple[str, ...]:
    """The cells of a ratio and method."""
    over = study.over_supervised
    return (
        study.ratio,
        study.method,
        f"{sum(study.finished.values())}/{study.n_trials}",
        str(study.finished.get("pruned", 0)),
        str(study.finished.get("failed", 0)),
        "" if study.best is None else f"best {study.best:.2f}",
        "" if over is None else f"{over:+.2f}",
        format_clock(study.eta),
        "{}/{}".format(*study.repeats),
    )


def trial_cells(trial: RunningTrial) -> tuple[str, ...]:
    """The cells of a running trial."""
    return (
        "",
        f"- {trial.name}",
        f"{trial.step}/{trial.steps}",
        "",
        "",
        format_number(trial.value),
        "",
        format_clock(trial.eta),
    )


def format_clock(seconds: float | None) -> str:
    """H:MM:SS, or empty."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
