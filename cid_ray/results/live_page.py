"""The live pages: the snapshot of a run folder as HTML.

A page may be requested every second, so figures are drawn again only when the records change.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cid_ray.config import Config, InputError, error_summary
from cid_ray.results import figures
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.device_time import TIME_KINDS
from cid_ray.results.figure_data import curves_data, history_data
from cid_ray.results.formatting import format_duration
from cid_ray.results.records import RECORDS_FILE, Record
from cid_ray.results.report_page import RenderedFigure, class_legend, render_figure, templates
from cid_ray.results.run_kind import ladder_in, refuse_ladder
from cid_ray.results.snapshot import BestRun, SearchSnapshot, snapshot
from cid_ray.results.status import STATUS_FILE, read_status
from cid_ray.results.summary import METHOD_NAMES, RatioSummary
from cid_ray.storage import boundary, paths
from cid_ray.storage.run_config import load_run_config
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
    # ratio -> name -> figure
    figures: dict[str, dict[str, RenderedFigure | None]] = field(default_factory=dict)
    figure_data: dict[str, Any] = field(default_factory=dict)  # ratio -> what its figures show
    image_paths: set[str] = field(default_factory=set)  # named by records; no other file is served

    @property
    def folder(self) -> Path:
        return self.run_dir.local

    @property
    def ladder(self) -> str:
        """The name of the ladder that the folder holds; "" of a search or a training."""
        return ladder_in(self.folder)

    @property
    def has_report(self) -> bool:
        return paths.inside(self.folder, REPORT_FILE) is not None

    def poll(self) -> bool:
        """Whether a watched file, or the connection to the store, changed since the last poll."""
        files = [_file_stamp(self.folder / name) for name in WATCHED_FILES]
        stamp = (*files, self.run_dir.unreachable_since)
        changed = stamp != self.stamp
        self.stamp = stamp
        return changed

    def __post_init__(self) -> None:
        self.reader = CompactRecordReader(self.folder)

    def read(self) -> tuple[SearchSnapshot, list[Record], Config]:
        """Read the run folder. If its store is lost, the snapshot is that of the last good read.

        A file that cannot be read is a problem of the snapshot, and the others are shown.
        """
        problems = []
        try:
            boundary.check_links(self.folder)
        except InputError as error:
            now = time.time()
            search = snapshot([], Config(), {}, now)
            search.problems.append(str(error))
            return search, [], Config()
        try:
            config = read_config(self.run_dir)
        except InputError as error:
            config = Config()
            problems.append(str(error))
        try:
            status = read_status(self.folder)  # before the records, which know at least as much
        except InputError as error:
            status = {}
            problems.append(str(error))
        try:
            records = self.reader.read()
        except OSError as error:
            records = []
            problems.append(f"{self.reader.path} cannot be read ({error.strerror})")
        problems.append(self.reader.skipped)
        now = self.run_dir.unreachable_since or time.time()
        try:
            search = snapshot(records, config, status, now)
        except Exception as error:  # the page of several runs must not fail with one of them
            search = snapshot([], config, {}, now)
            summary = error_summary(error, with_type=True)
            problems.append(f"the records of {self.folder} cannot be shown ({summary})")
        problems.append(self._find_images(search))
        search.problems += filter(None, problems)
        return search, records, config

    def _find_images(self, search: SearchSnapshot) -> str:
        """Which images of the records may be served; says how many of them are missing."""
        samples = [sample for ratio in search.ratios for sample in ratio.sample_images]
        named = {path for sample in samples for path in sample.paths}
        self.image_paths = {path for path in named if paths.inside(self.folder, path)}
        missing = len(named) - len(self.image_paths)
        if not self.image_paths or not missing:  # records may be published without images
            return ""
        return f"{missing} of {len(named)} sample images are missing"

    def render_figures(self, search: SearchSnapshot) -> None:
        """Draw the figures of the ratios that have changed since the last call."""
        for summary in (ratio.summary for ratio in search.ratios if ratio.summary):
            data = (curves_data(summary), history_data(summary))
            if self.figure_data.get(summary.ratio) != data:
                self.figures[summary.ratio] = {
                    "curves": _curves(summary),
                    "history": _history(summary),
                }
                self.figure_data[summary.ratio] = data


def open_runs(run_dirs: Sequence[RunDir]) -> list[ServedRun]:
    """Prepare run folders for the site, each under a slug of its own.

    Raises:
        InputError: a folder is no run folder, its configuration is invalid, or the only one is a
            ladder's, whose page is not live.
    """
    runs: dict[str, ServedRun] = {}
    for run_dir in run_dirs:
        names = (CONFIG_FILE, RECORDS_FILE)
        if not any((run_dir.local / name).is_file() for name in names):
            raise InputError(
                f"{run_dir} is not a run folder: it has neither {CONFIG_FILE} nor {RECORDS_FILE}"
            )
        if len(run_dirs) == 1:
            refuse_ladder(run_dir)
            read_config(run_dir)  # an invalid one ends the command now, not a request later
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


def read_config(run_dir: RunDir) -> Config:
    """The configuration in a run folder, the defaults where it has none."""
    has_config = (run_dir.local / CONFIG_FILE).exists()
    return load_run_config(run_dir) if has_config else Config()


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


def problem_page(path: str, error: Exception) -> str:
    """The page in place of one that cannot be rendered; it is tried again after the next change."""
    summary = error_summary(error, with_type=True)
    return templates().get_template("problem.html.j2").render(path=path, summary=summary)


def runs_page(runs: list[ServedRun]) -> str:
    """All runs next to each other; of a ladder a link to its page."""
    ladders = [run for run in runs if run.ladder]
    searches = [(run, run.read()[0]) for run in runs if run not in ladders]
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
            ladders=ladders,
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
