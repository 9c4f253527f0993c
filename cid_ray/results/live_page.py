"""The live pages: what `live.look` sees of a run's folder as HTML, drawn anew only when the folder has changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cid_ray.config import Config, load
from cid_ray.home import Home
from cid_ray.results import figures, pulse
from cid_ray.results.live import KINDS, Now, look
from cid_ray.results.page import Drawing, drawn, legend, span, templates
from cid_ray.results.record import Row, read_rows
from cid_ray.results.summary import METHODS, RatioSummary

FILES = ("rows.jsonl", pulse.NAME, "config.yaml", "report/index.html")
WORDS = {
    "running": "running",
    "closing": "all trials ended, the winners are being tested",
    "silent": "no sign of life",
    "killed": "killed: go on with --resume",
    "stopped": "stopped",
    "finished": "finished",
    "unknown": "not known whether it runs",
}
Stamp = tuple[Any, ...]


@dataclass
class Shown:
    """One run on the site. `poll` notices changes; all else may take a while and belongs into a thread."""

    slug: str
    home: Home
    optuna: str = ""  # address of an optuna-dashboard on its study
    version: int = 0
    stamp: Stamp = ()
    drawn_stamp: Any = None
    charts: dict[str, dict[str, Drawing | None]] = field(default_factory=dict)  # ratio -> name -> figure
    files: set[str] = field(default_factory=set)  # pictures that rows name: nothing else is handed out

    def poll(self) -> bool:
        """Whether rows, pulse, settings, report or the way to them are others than at the last poll."""
        stamp = (*(_stamp(self.folder / name) for name in FILES), self.home.lost)
        changed, self.stamp = stamp != self.stamp, stamp
        return changed

    @property
    def folder(self) -> Path:
        return self.home.here

    @property
    def report(self) -> bool:
        return (self.folder / "report" / "index.html").is_file()

    def read(self) -> tuple[Now, list[Row], Config]:
        rows, config = read_rows(self.folder), read_config(self.folder)
        now = look(rows, config, pulse.read_pulse(self.folder), self.home.lost or time.time())
        self.files = {
            path
            for ratio in now.ratios
            for p in ratio.pictures
            for path in (p["image"], p["label"], *(path for *_, path in p["predictions"]))
            if (self.folder / path).is_file()  # rows may travel without their pictures
        }
        return now, rows, config

    def draw(self, now: Now) -> None:
        """The figures; they depend on rows alone."""
        if self.stamp[:1] != self.drawn_stamp or not self.charts:
            summaries = [ratio.summary for ratio in now.ratios if ratio.summary]
            self.charts = {s.ratio: {"curves": _curves(s), "history": _history(s)} for s in summaries}
            self.drawn_stamp = self.stamp[:1]


def _curves(summary: RatioSummary) -> Drawing | None:
    return drawn(figures.draw_curves, [summary]) if summary.rungs else None


def _history(summary: RatioSummary) -> Drawing | None:
    return drawn(figures.draw_history, [summary]) if figures.history_data(summary) else None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def read_config(folder: Path) -> Config:
    kept = folder / "config.yaml"
    return load(kept if kept.is_file() else None)


def run_page(run: Shown, everything: list[Shown]) -> str:
    """The page of one run."""
    now, rows, config = run.read()
    run.draw(now)
    return templates().get_template("live.html.j2").render(
        title=run.home.own_name, run=run, runs=everything, now=now, words=WORDS[now.state], kinds=_used(now),
        status=status(run, now), methods=METHODS, legend=legend(rows), config=config.to_yaml(),
        metric=config.search.metric,
    )  # fmt: skip


def runs_page(everything: list[Shown]) -> str:
    """All runs side by side."""
    seen = [(run, run.read()[0]) for run in everything]
    lines: dict[tuple[int, str, str], dict[str, Any]] = {}  # (labels, ratio, method) -> run -> its best
    for run, now in seen:
        for ratio in now.ratios:
            for best in ratio.best:
                count = ratio.summary.label_count if ratio.summary else 0
                lines.setdefault((count, ratio.name, best.method), {})[run.slug] = best
    order = list(METHODS)
    table = [(key[1], key[2], lines[key]) for key in sorted(lines, key=lambda k: (k[0], k[1], order.index(k[2])))]
    return templates().get_template("runs.html.j2").render(
        title=f"{len(seen)} runs", runs=everything, seen=seen, table=table, methods=METHODS, words=WORDS,
        status="; ".join(f"{run.slug}: {status(run, now)}" for run, now in seen),
    )  # fmt: skip


def _used(now: Now) -> list[str]:
    return [kind for kind in KINDS if any(ratio.seconds.get(kind) for ratio in now.ratios)]


def status(run: Shown, now: Now) -> str:
    """One line; it changes when a trial does, not with every second."""
    then = "its store cannot be read; when it last could: " if run.home.lost else ""
    of = f" of {now.total}" if now.total else ""
    left = f", {span(now.eta)} left at this pace" if now.eta is not None else ""
    at_work = f", {len(now.running)} running" if now.running else ""
    return f"{then}{WORDS[now.state]}: {now.done}{of} trials ended{at_work}{left}"
