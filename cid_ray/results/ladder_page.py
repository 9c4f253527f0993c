"""The page of a ladder, `report/index.html`: a figure, a table and what they say.

Self-contained, made from records alone, with neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cid_ray.config import InputError
from cid_ray.results import (
    batch_ladder,
    concurrency_ladder,
    model_ladder,
    score_ladder,
    worker_ladder,
)
from cid_ray.results.audit_page import page_templates
from cid_ray.results.ladder import failed_lines, ladder_of
from cid_ray.results.records import Record, RecordWriter, of_event, read_records
from cid_ray.results.report_page import rendered
from cid_ray.storage import paths

PAGE_FILE = "index.html"


class LadderKind(Protocol):
    """What a module says about its kind of ladder, all of it made from the ladder's records."""

    @property
    def HEADER(self) -> tuple[str, ...]:
        """The columns of the table."""

    def rows(self, records: list[Record], /) -> list[tuple[str, ...]]:
        """The table below HEADER."""

    def lines(self, records: list[Record], /) -> list[str]:
        """Sentences, the advice last."""

    def draw(self, records: list[Record], /) -> str:
        """The figure, SVG text."""

    def conclusions(self, records: list[Record], /) -> list[Record]:
        """The `forecast` and `recommendation` records, with every number that the others show."""


# Ladder -> its title, and the module that speaks for it.
KINDS: dict[str, tuple[str, LadderKind]] = {
    "labels": ("Test mIoU against labels", score_ladder),
    "pool": ("Test mIoU against the size of the pool", score_ladder),
    "batch": ("Images to a mIoU against the batch size", batch_ladder),
    "model": ("Test mIoU against the cost of the encoder", model_ladder),
    "workers": ("Step time against workers", worker_ladder),
    "concurrency": ("Trials per hour against trials at a time", concurrency_ladder),
}


@dataclass(frozen=True)
class LadderReport:
    """What a ladder says.

    Attributes:
        title: in words.
        lines: sentences, the advice last.
        header: of the table.
        rows: below it.
        figure: SVG text.
        facts: name and value of what the numbers depend on.
    """

    title: str
    lines: list[str]
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    figure: str
    facts: list[tuple[str, str]]


def append_conclusions(folder: Path) -> list[Record]:
    """Append what a ladder says to its records: forecasts and recommendations; newer ones replace
    the former.

    Args:
        folder: the run folder of a ladder.

    Returns:
        All its records.

    Raises:
        OSError: the records cannot be written.
    """
    records = read_records(folder)
    name = ladder_of(records)
    if name:
        writer = RecordWriter(folder)
        for record in KINDS[name][1].conclusions(records):
            writer.append(record)
    return read_records(folder)


def ladder_report(records: list[Record]) -> LadderReport:
    """What the records of a ladder say.

    Args:
        records: as `read_records` returns them.

    Raises:
        InputError: there is no record of a ladder.

    Example:
        >>> report = ladder_report(read_records("runs/labels"))
        >>> print("\\n".join(report.lines))
    """
    name = ladder_of(records)
    if not name:
        failed = "".join(f"; {line}" for line in failed_lines(records))
        raise InputError(f"the records hold no count of a ladder: nothing was measured{failed}")
    title, kind = KINDS[name]
    facts = worker_ladder.facts(records) if name == "workers" else run_facts(records)
    return LadderReport(
        title, kind.lines(records), kind.HEADER, kind.rows(records), kind.draw(records), facts
    )


def run_facts(records: list[Record]) -> list[tuple[str, str]]:
    """What the trainings of a ladder depend on."""
    finals = of_event(records, "final")
    if not finals:
        return []
    last = finals[-1]
    versions = [f"{name} {version}" for name, version in last["versions"].items()]
    steps = sorted({final["steps"] for final in finals})
    return [
        ("trainings", f"{len(finals)}, of {', '.join(map(str, steps))} steps"),
        ("label draws", f"label_from {last['label_from']}; each repeat has its own seed and draw"),
        ("data", last["data"]),
        ("device", last["device"]),
        ("machine", last["machine"]),
        ("versions", ", ".join(versions)),
        ("git", str(last["git"])),
    ]


def write_ladder_report(
    folder: Path, records: list[Record], log: Callable[[str], None], out: Path | None = None
) -> Path:
    """Log the table and the sentences of a ladder, and write its page.

    Args:
        folder: the run folder.
        records: as `read_records` returns them.
        log: receives the table and each sentence.
        out: folder for `index.html` (default: `report` in the run folder).

    Raises:
        InputError: there is no record of a ladder.
        OSError: the page cannot be written.
    """
    report = ladder_report(records)
    log(text_table(report.header, report.rows))
    for line in report.lines:
        log(line)
    figure = rendered(report.figure)
    content = {"report": report, "figure": figure, "name": folder.resolve().name}
    page = page_templates().get_template("ladder.html.j2").render(**content)
    file = (out or folder / "report") / PAGE_FILE
    paths.write_text(file, page)
    return file


def text_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Aligned columns, two spaces apart."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [header, *rows]
    texts = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text.rstrip() for text in texts)
