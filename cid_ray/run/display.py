"""What a person sees of a run: a progress bar with ETA on a terminal, a line per rung everywhere, both in log.txt."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cid_ray.results.record import Row


class Display:
    """`with Display(out, steps) as display: display.row(row)`."""

    def __init__(self, out: Path, total: int, unit: str = "step"):
        self.log = (out / "log.txt").open("a", buffering=1)
        self.console = Console(soft_wrap=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn(f"{{task.completed}}/{{task.total}} {unit}s"),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(),
            console=self.console, disable=not sys.stdout.isatty(), transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
        with contextlib.suppress(OSError):
            self.log.close()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)
        with contextlib.suppress(OSError):  # a full disk is for those to report whose lines must not be lost
            self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def move(self, done: float, text: str = "") -> None:
        self.bar.update(self.task, completed=done, description=text)

    def row(self, row: Row) -> None:
        """Show one row of a training run."""
        if row.get("warning"):
            self.say(f"warning: {row['warning']}")
        if row["event"] == "progress":
            self.move(row["step"], f"loss {percent(row['losses']['total'], 3)}  {row['images_per_s']:.0f} images/s")
        elif row["event"] == "rung":
            self.move(row["step"])
            self.rung(row)

    def rung(self, row: Row, name: str = "") -> None:
        """A line about one rung of a run."""
        left = row["seconds"] / row["step"] * (row["steps"] - row["step"])
        self.say(
            f"{name + ': ' if name else ''}step {row['step']}/{row['steps']}  "
            f"loss {percent(row['losses']['total'], 3)}  mask_ratio {percent(row['losses']['mask_ratio'])}  "
            f"val mIoU teacher {percent(row['val/miou_teacher'])} student {percent(row['val/miou'])}  "
            f"{row['images_per_s']:.1f} images/s  ETA {left:.0f} s"
        )


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
