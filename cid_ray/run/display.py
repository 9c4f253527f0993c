"""What a person sees of a run: a bar with its ETA on a terminal, a line per event everywhere; events also in log.txt.

Quiet leaves on the screen what is asked for at the end, warnings and errors; log.txt is the same. Verbose adds lines
about what lies between events.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cid_ray.results.record import Row

QUIET, NORMAL, VERBOSE = -1, 0, 1
WHOLE_RUN = 1e9  # seconds over which the bar's ETA takes the speed


class Display:
    """`with Display(out, steps) as display: display.row(row)`. What `above` gives stands above the bar."""

    def __init__(self, out: Path, total: int, unit: str = "step", loudness: int = NORMAL):
        self.log = (out / "log.txt").open("a", buffering=1)
        self.loudness = loudness
        self.console = Console(soft_wrap=True, highlight=False, force_terminal=sys.stdout.isatty())
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed}}/{{task.total}} {unit}s"),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
            console=self.console, speed_estimate_period=WHOLE_RUN,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total)
        self.above: Callable[[], RenderableType] | None = None
        self.live = Live(get_renderable=self.draw, console=self.console, transient=True)

    def __enter__(self) -> Display:
        if self.loudness > QUIET and self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()
        with contextlib.suppress(OSError):
            self.log.close()

    def draw(self) -> RenderableType:
        bar = self.bar.get_renderable()
        return Group(self.above(), bar) if self.above else bar

    # ---- lines ----

    def say(self, text: str, always: bool = False) -> None:
        """Tell an event; `always`: on a quiet screen too."""
        if always or self.loudness > QUIET:
            self.console.print(text, markup=False)
        with contextlib.suppress(OSError):  # a full disk is for those to report whose lines must not be lost
            self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def detail(self, text: str) -> None:
        """Tell what only the verbose want to know."""
        if self.loudness >= VERBOSE:
            self.say(text)

    def move(self, done: float, text: str = "") -> None:
        self.bar.update(self.task, completed=done, description=text)

    # ---- rows ----

    def row(self, row: Row) -> None:
        """Show one row of a training run."""
        if row.get("warning"):
            self.say(f"warning: {row['warning']}", always=True)
        if row["event"] == "progress":
            self.move(row["step"], speed(row))
            self.progress(row)
        elif row["event"] == "rung":
            self.move(row["step"])
            self.rung(row)

    def progress(self, row: Row, name: str = "") -> None:
        """A line about where a run is between its rungs, for the verbose."""
        self.detail(f"{name + ': ' if name else ''}step {row['step']}  {speed(row)}")

    def rung(self, row: Row, name: str = "") -> None:
        """A line about one rung of a run."""
        left = row["seconds"] / row["step"] * (row["steps"] - row["step"])
        self.say(
            f"{name + ': ' if name else ''}step {row['step']}/{row['steps']}  "
            f"loss {percent(row['losses']['total'], 3)}  mask_ratio {percent(row['losses']['mask_ratio'])}  "
            f"val mIoU teacher {percent(row['val/miou_teacher'])} student {percent(row['val/miou'])}  "
            f"{row['images_per_s']:.1f} images/s  ETA {left:.0f} s"
        )


def speed(row: Row) -> str:
    return f"loss {percent(row['losses']['total'], 3)}  {row['images_per_s']:.0f} images/s"


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
