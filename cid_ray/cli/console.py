"""What a run prints: a bar with its ETA on a terminal, one line per event everywhere.

Every line also goes to log.txt. A quiet console prints only results, warnings and errors, a verbose
one also the progress between rungs.
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

from cid_ray.cli.parser import NORMAL, QUIET, VERBOSE
from cid_ray.config.plain_text import printable
from cid_ray.results.progress import run_remaining_seconds
from cid_ray.results.records import Record
from cid_ray.storage.boundary import no_follow

LOG_FILE = "log.txt"
SPEED_WINDOW_S = 1e9  # the ETA uses the mean speed of the whole run: trials differ in length


class RunConsole:
    """Prints a run's events and shows its progress.

    `header`, when it is set, gives what is shown above the bar, e.g. the table of a search.

    Example:
        with RunConsole(folder, total=config.train.steps) as console:
            for record in train(config, folder):
                console.show_record(record)
    """

    def __init__(self, folder: Path, total: int, unit: str = "step", verbosity: int = NORMAL):
        self.log_file = open(  # noqa: SIM115  # closed by __exit__
            folder / LOG_FILE, "a", buffering=1, encoding="utf-8", opener=no_follow
        )
        self.verbosity = verbosity
        self.header: Callable[[], RenderableType] | None = None
        # Only a real terminal gets a bar: FORCE_COLOR must not put control codes into a file.
        self.console = Console(
            soft_wrap=True,
            force_terminal=sys.stdout.isatty(),
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn(f"{{task.completed}}/{{task.total}} {unit}s"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=SPEED_WINDOW_S,
        )
        self.task = self.bar.add_task("", total=total)
        self.live = Live(get_renderable=self._render, console=self.console, transient=True)

    def __enter__(self) -> RunConsole:
        if self.verbosity > QUIET and self.console.is_interactive:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()
        with contextlib.suppress(OSError):
            self.log_file.close()

    def _render(self) -> RenderableType:
        bar = self.bar.get_renderable()
        return Group(self.header(), bar) if self.header else bar

    # ---- lines ----

    def log(self, text: str, always: bool = False) -> None:
        """Print a line, on a quiet console only with `always`, and write it to log.txt."""
        text = printable(text)
        if always or self.verbosity > QUIET:
            self.console.print(text)
        # A full disk must not end the run here: writing the next record or checkpoint reports it.
        with contextlib.suppress(OSError):
            self.log_file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def detail(self, text: str) -> None:
        """Log a line that only a verbose console prints."""
        if self.verbosity >= VERBOSE:
            self.log(text)

    def advance(self, done: float, text: str = "") -> None:
        """Move the bar to `done`, with a text in front of it."""
        self.bar.update(self.task, completed=done, description=printable(text))

    # ---- records ----

    def show_record(self, record: Record) -> None:
        """Show a record of a single training run."""
        if record.get("warning"):
            self.log(f"warning: {record['warning']}", always=True)
        if record["event"] == "progress":
            self.advance(record["step"], format_speed(record))
            self.show_progress(record)
        elif record["event"] == "rung":
            self.advance(record["step"])
            self.show_rung(record)

    def show_progress(self, record: Record, name: str = "") -> None:
        """One line about a run between its rungs, on a verbose console."""
        self.detail(f"{_prefix(name)}step {record['step']}  {format_speed(record)}")

    def show_rung(self, record: Record, name: str = "") -> None:
        """One line about a rung of a run."""
        losses = record["losses"]
        self.log(
            f"{_prefix(name)}step {record['step']}/{record['steps']}  "
            f"loss {format_number(losses['total'], 3)}  "
            f"mask_ratio {format_number(losses['mask_ratio'])}  "
            f"val mIoU teacher {format_number(record['val/miou_teacher'])} "
            f"student {format_number(record['val/miou'])}  "
            f"{record['images_per_s']:.1f} images/s  "
            f"ETA {run_remaining_seconds(record):.0f} s"
        )


def format_speed(record: Record) -> str:
    loss = format_number(record["losses"]["total"], 3)
    return f"loss {loss}  {record['images_per_s']:.0f} images/s"


def format_number(value: float | None, digits: int = 2) -> str:
    """A number, or "-" for what was not measured."""
    return "-" if value is None else f"{value:.{digits}f}"


def _prefix(name: str) -> str:
    return f"{name}: " if name else ""
