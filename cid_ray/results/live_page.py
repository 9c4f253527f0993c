"""The live pages: the snapshot of a run folder as HTML.

A page may be requested every second, so figures are drawn again only when the records change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cid_ray.config import Config, InputError, load_config
from cid_ray.results import figures
from cid_ray.results.device_time import TIME_KINDS
from cid_ray.results.figure_data import history_data
from cid_ray.results.formatting import format_duration
from cid_ray.results.records import RECORDS_FILE, Record, read_records
from cid_ray.results.report_page import RenderedFigure, class_legend, render_figure, templates
from cid_ray.results.snapshot import BestRun, SearchSnapshot, snapshot
from cid_ray.results.status import STATUS_FILE, read_status
from cid_ray.results.summary import METHOD_NAMES, RatioSummary
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir

REPORT_FILE = "report/index.html"
WATCHED_FILES = (RECORDS_FILE, STATUS_FILE, CONFIG_FILE, REPORT_FILE)
STATE_TEXT = {
    "running": "running",
    "finalizing": "all trials finished, the winners are being tested",
    "no_heartbeat": "no heartbeat",
    "killed": "killed: resume with --resume",
    "stopped": "stopped",
    "finished": "finished",
    "unknown": "state unknown",
}
FileStamp = tuple[int, int]  # time of the last change in ns, size in bytes


@dataclass
class ServedRun:
    """One run on the site.

    `poll` is cheap; everything else may take seconds and belongs into a thread.
    """

    slug: str  # name of the run in URLs
    run_dir: RunDir
    optuna_url: str = ""  # of an optuna-dashboard on its study
    version: int = 0  # counts changes; a page of an older version is rendered again
    stamp: tuple[Any, ...] = ()  # of everything that a page depends on
    rendered_stamp: tuple[Any, ...] | None = None  # of the records that the figures show
    # ratio -> name -> figure
    figures: dict[str, dict[str, RenderedFigure | None]] = field(default_factory=dict)
    image_paths: set[str] = field(default_factory=set)  # named by records; no other file is served

    @property
    def folder(self) -> Path:
        return self.run_dir.local

    @property
    def has_report(self) -> bool:
        return (self.folder / REPORT_FILE).is_file()

    def poll(self) -> bool:
        """Whether a watched file, or the connection to the store, changed since the last poll."""
        files = [_file_stamp(self.folder / name) for name in WATCHED_FILES]
        stamp = (*files, self.run_dir.unreachable_since)
        changed = stamp != self.stamp
        self.stamp = stamp
        return changed

    def read(self) -> tuple[SearchSnapshot, list[Record], Config]:
        """Read the run folder. If its store is lost, the snapshot is that of the last good read."""
        records = read_records(self.folder)
        config = read_config(self.folder)
        now = self.run_dir.unreachable_since or time.time()
        search = snapshot(records, config, read_status(self.folder), now)
        samples = [sample for ratio in search.ratios for sample in ratio.sample_images]
        named = {path for sample in samples for path in sample.paths}
        # records may be published without their images
        self.image_paths = {path for path in named if (self.folder / path).is_file()}
        return search, records, config

    def render_figures(self, search: SearchSnapshot) -> None:
        """Draw the figures, unless the records are those of the last call."""
        # The stamp is older than what `read` returned: figures may be newer than it, never staler.
        records_stamp = self.stamp[:1]
        if records_stamp == self.rendered_stamp and self.figures:
            return
        summaries = [ratio.summary for ratio in search.ratios if ratio.summary]
        self.figures = {s.ratio: {"curves": _curves(s), "history": _history(s)} for s in summaries}
        self.rendered_stamp = records_stamp


def open_runs(run_dirs: Sequence[RunDir]) -> list[ServedRun]:
    """Prepare run folders for the site, each under a slug of its own.

    Raises:
        InputError: a folder is no run folder, or its configuration is invalid.
    """
    runs: dict[str, ServedRun] = {}
    for run_dir in run_dirs:
        names = (CONFIG_FILE, RECORDS_FILE)
        if not any((run_dir.local / name).is_file() for name in names):
            raise InputError(
                f"{run_dir} is not a run folder: it has neither {CONFIG_FILE} nor {RECORDS_FILE}"
            )
        read_config(run_dir.local)  # an invalid one ends the command now, not a request later
        slug = _free_slug(run_dir.basename, taken=runs)
        runs[slug] = ServedRun(slug, run_dir)
    return list(runs.values())


def _free_slug(name: str, taken: dict[str, ServedRun]) -> str:
    base = "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "run"
    slug = base
    number = 2
    while slug in taken:
        slug = f"{base}-{number}"
        number += 1
    return slug


def read_config(folder: Path) -> Config:
    """The configuration in a run folder, the defaults where it has none."""
    path = folder / CONFIG_FILE
    return load_config(path if path.is_file() else None)


def run_page(run: ServedRun, runs: list[ServedRun]) -> str:
    """The page of one run; `runs` are the links to all runs of the site."""
    search, records, config = run.read()
    run.render_figures(search)
    return (
        templates()
        .get_template("live.html.j2")
        .render(
            title=run.run_dir.basename,
            run=run,
            runs=runs,
            search=search,
            state_text=STATE_TEXT[search.state],
            time_kinds=_used_kinds(search),
            status=status_line(run, search),
            methods=METHOD_NAMES,
            legend=class_legend(records),
            config=config.to_yaml(),
            metric=config.search.metric,
        )
    )


def runs_page(runs: list[ServedRun]) -> str:
    """All runs next to each other."""
    searches = [(run, run.read()[0]) for run in runs]
    # (label count, ratio, method) -> slug -> the run's best
    best: dict[tuple[int, str, str], dict[str, BestRun]] = {}
    for run, search in searches:
        for ratio in search.ratios:
            count = ratio.summary.label_count if ratio.summary else 0
            for entry in ratio.best_runs:
                key = (count, ratio.name, entry.score.method)
                best.setdefault(key, {})[run.slug] = entry
    methods = list(METHOD_NAMES)
    order = sorted(best, key=lambda key: (key[0], key[1], methods.index(key[2])))
    return (
        templates()
        .get_template("runs.html.j2")
        .render(
            title=f"{len(runs)} runs",
            runs=runs,
            searches=searches,
            table=[(name, method, best[count, name, method]) for count, name, method in order],
            methods=METHOD_NAMES,
            state_text=STATE_TEXT,
            status="; ".join(f"{run.slug}: {status_line(run, search)}" for run, search in searches),
        )
    )


def status_line(run: ServedRun, search: SearchSnapshot) -> str:
    """The state in one line for screen readers: it changes with a trial, not every second."""
    text = ""
    if run.run_dir.unreachable_since:
        text = "its store cannot be read; the last known state: "
    text += f"{STATE_TEXT[search.state]}: {search.finished}"
    if search.total:
        text += f" of {search.total}"
    text += " trials finished"
    if search.running:
        text += f", {len(search.running)} running"
    if search.eta is not None:
        text += f", {format_duration(search.eta)} left at this pace"
    return text


def _curves(summary: RatioSummary) -> RenderedFigure | None:
    return render_figure(figures.draw_curves, [summary]) if summary.rungs else None


def _history(summary: RatioSummary) -> RenderedFigure | None:
    return render_figure(figures.draw_history, [summary]) if history_data(summary) else None


def _used_kinds(search: SearchSnapshot) -> list[str]:
    return [kind for kind in TIME_KINDS if any(ratio.seconds[kind] for ratio in search.ratios)]


def _file_stamp(path: Path) -> FileStamp:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
