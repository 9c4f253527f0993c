"""A comparison of runs in words and tables: the same on the terminal, in Markdown, on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cid_ray.config.plain_text import printable
from cid_ray.results.formatting import (
    MISSING,
    format_mean,
    format_p,
    format_score,
    format_signed,
)
from cid_ray.results.markdown import escape_markdown, markdown_table
from cid_ray.results.run_comparison import Difference, RunComparison
from cid_ray.results.score_comparison import MethodScores, ScoreDifference
from cid_ray.results.summary import METHOD_NAMES
from cid_ray.results.text_report import render_table

TEXT_COLUMNS = ("labels", "method", "run", "judgement")  # the others of scores are numbers
SCORES = "mIoU is in percent, at the last step. Seconds are those of the chosen run's training."
REPEATS = "± is the standard deviation over the finished repeats of the chosen run."
TRIES = "Numbers of tries differ: a method that was tried more often may be better for that alone."
INTERVALS = (
    "A difference with an interval is the mean over pairs of repeats, which share number, seed, "
    "label draw and split. The interval is for 95 % and one difference (t distribution). Above "
    "noise means p < 0.05 after Holm's correction for all differences that are judged here. A "
    "difference without an interval is that of the chosen runs."
)
TOTALS = (
    "Trials are counted by their end, finished repeats apart. Seconds are those of training, in "
    "all trials and repeats."
)


@dataclass(frozen=True)
class Section:
    """A part of a comparison.

    Attributes:
        title: its heading.
        lines: sentences before the table.
        header: names of the table's columns.
        rows: below it; none: there is no table.
        text_columns: names of those that hold text; the others hold numbers.
        notes: sentences after the table.
    """

    title: str
    lines: list[str]
    header: list[str]
    rows: list[list[str]]
    text_columns: tuple[str, ...]
    notes: list[str]


def sections(comparison: RunComparison) -> list[Section]:
    """All that a comparison says, in order, after its cautions."""
    names = comparison.names
    return [
        _difference_section(
            "Configuration", "The same configuration.", "key", comparison.config, names, _json_text
        ),
        _difference_section("Data", "The same data.", "what", comparison.data, names, _plain_text),
        _difference_section(
            "Versions and device",
            "The same versions, commit and device.",
            "what",
            comparison.software,
            names,
            _plain_text,
        ),
        _score_section(comparison),
        _totals_section(comparison),
    ]


def terminal_text(comparison: RunComparison) -> str:
    """What `report` prints about several runs."""
    parts = [*comparison.cautions]
    for section in sections(comparison):
        parts += ["", section.title, *section.lines]
        if section.rows:
            parts.append(_terminal_table(section))
        parts += section.notes
    return "\n".join(parts).lstrip("\n")


def comparison_markdown(comparison: RunComparison) -> str:
    """`comparison.md`."""
    lines = [f"# {escape_markdown(title(comparison))}"]
    for caution in comparison.cautions:
        lines += ["", f"**{escape_markdown(caution)}**"]
    for section in sections(comparison):
        lines += ["", f"## {section.title}"]
        for sentence in section.lines:
            lines += ["", escape_markdown(sentence)]
        if section.rows:
            lines += ["", *markdown_table(section.header, section.rows)]
        for sentence in section.notes:
            lines += ["", escape_markdown(sentence)]
    return "\n".join([*lines, ""])


def title(comparison: RunComparison) -> str:
    first, *others = comparison.names
    return f"{', '.join(others)} against {first}"


def _terminal_table(section: Section) -> str:
    table = Table(box=None, pad_edge=False)
    for name in section.header:
        justify: Any = "left" if name in section.text_columns else "right"
        table.add_column(printable(name), justify=justify, overflow="fold")
    for row in section.rows:
        table.add_row(*map(printable, row))
    return render_table(table)


# ---- configuration, data, versions ----


def _difference_section(
    name: str,
    same: str,
    what: str,
    differences: list[Difference],
    names: list[str],
    text_of: Callable[[Any], str],
) -> Section:
    rows = [
        [
            each.what,
            *(text_of(each.values[run]) if run in each.values else MISSING for run in names),
        ]
        for each in differences
    ]
    header = [what, *names]
    return Section(name, [] if rows else [same], header, rows, tuple(header), [])


def _json_text(value: Any) -> str:
    """A value of a configuration, with all its digits and with quotes around text."""
    return json.dumps(value, ensure_ascii=False)


def _plain_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain_text, value))
    return "unknown" if value is None else str(value)


# ---- scores ----


def _score_section(comparison: RunComparison) -> Section:
    every = [scores for each in comparison.methods for scores in each.runs.values()]
    has_repeats = any(scores.repeats for scores in every)
    has_pairs = any(scores.difference and scores.difference.paired for scores in every)
    first = comparison.names[0]
    header = ["labels", "method", "run", "val mIoU", "test mIoU"]
    header += ["test mIoU, repeats"] if has_repeats else []
    header += ["tries", "seconds", f"val − {first}", f"test − {first}", "judgement"]
    rows = [
        [
            scores.ratio_name,
            METHOD_NAMES[each.method],
            name,
            *_score_cells(scores, has_repeats),
            *_difference_cells(scores.difference),
        ]
        for each in comparison.methods
        for name in comparison.names
        if (scores := each.runs.get(name))
    ]
    lines = _missing_lines(comparison) if rows else ["There are no scores."]
    has_other_tries = any(
        len({scores.tries for scores in each.runs.values()}) > 1 for each in comparison.methods
    )
    shown = (
        (SCORES, bool(rows)),
        (TRIES, has_other_tries),
        (REPEATS, has_repeats),
        (INTERVALS, has_pairs),
    )
    notes = [text for text, is_shown in shown if is_shown]
    return Section("Result", lines, header, rows, TEXT_COLUMNS, notes)


def _score_cells(scores: MethodScores, has_repeats: bool) -> list[str]:
    repeats = MISSING
    if scores.mean is not None:
        repeats = f"{format_mean(scores.mean, scores.sd)} ({scores.repeats})"
    return [
        format_score(scores.val),
        format_score(scores.test),
        *([repeats] if has_repeats else []),
        str(scores.tries),
        MISSING if scores.seconds is None else f"{scores.seconds:.0f}",
    ]


def _difference_cells(difference: ScoreDifference | None) -> list[str]:
    """Of val, of test, and the judgement; empty in the first run."""
    if difference is None:
        return ["", "", ""]
    paired = difference.paired
    val, test = format_signed(difference.val), format_signed(difference.test)
    if paired is None:
        return [val, test, f"none: {difference.reason}"]
    interval = f"{format_signed(paired.low)} to {format_signed(paired.high)}"
    return [
        val,
        f"{format_signed(paired.mean)} ({interval})",
        f"{difference.judgement}, {format_p(paired.adjusted_p)}, {paired.pairs} pairs",
    ]


def _missing_lines(comparison: RunComparison) -> list[str]:
    """Of each run the ratios and methods that only others have."""
    ratios: dict[str, dict[str, str]] = {}  # ratio -> name of the run -> ratio with its labels
    for each in comparison.methods:
        for name, scores in each.runs.items():
            ratios.setdefault(each.ratio, {})[name] = scores.ratio_name
    lines = []
    for name in comparison.names:
        lacks = {
            f"no run at {next(iter(ratios[each.ratio].values()))}"
            if name not in ratios[each.ratio]
            else f"no {METHOD_NAMES[each.method]} at {ratios[each.ratio][name]}": None
            for each in comparison.methods
            if name not in each.runs
        }
        if lacks:
            lines.append(f"{name} has {', '.join(lacks)}.")
    return lines


# ---- what the runs did ----


def _totals_section(comparison: RunComparison) -> Section:
    counts = ("complete", "pruned", "failed", "stale", "unfinished", "repeats")
    rows = [
        [run.name, run.folder, *(str(getattr(run, name)) for name in counts), f"{run.seconds:.0f}"]
        for run in comparison.runs
    ]
    header = ["run", "folder", *counts, "seconds"]
    return Section("What the runs did", [], header, rows, ("run", "folder"), [TOTALS])
