"""Law: no text from data controls the terminal, and none is taken for rich's markup."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.callbacks.console import render_table
from cid_ray.cli.console import RunConsole
from cid_ray.cli.parser import VERBOSE
from cid_ray.config.plain_text import KEPT, printable
from cid_ray.resources.capacity import ClusterCapacity, NodeType, Resources
from cid_ray.resources.costs import node_table
from cid_ray.resources.prices import Prices
from cid_ray.results.summary import summarize
from cid_ray.results.text_report import comparison_table
from cid_ray.search.status import RunningTrial, StudyStatus
from tests.helpers.records import rung, small_search

HOSTILE = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[H",
    "a\rb",
    "bell\x07",
    "back\x08\x08",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "\U000e0041tag",
    "line\u2028two",
    "\udcff",
    "[red]",
    "[/]",
    "[/red]",
    "[link=https://evil.example]x[/link]",
    ":skull:",
    "[bold",
    "\\[",
)


def is_hidden(character: str) -> bool:
    return character not in KEPT and unicodedata.category(character) in (
        "Cc", "Cf", "Cs", "Zl", "Zp"
    )  # fmt: skip


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lu"])))
def test_printed_text_has_no_hidden_character_and_keeps_the_others(text: str) -> None:
    shown = printable(text)
    assert not any(map(is_hidden, shown))
    visible = "".join(character for character in text if not is_hidden(character))
    assert visible == text or len(shown) > len(visible)
    assert shown == text or any(map(is_hidden, text))
    assert printable(shown) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_printed_as_it_is_written(
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    record = rung("cid", 16, 0, 5, 40.0) | {"run": text, "warning": text}
    trial = RunningTrial(text, 10)
    study = StudyStatus(text, text, 2, {}, (trial,), 1, None, None, None, (0, 0))
    study_table = render_table([study])
    with RunConsole(tmp_path, 10, verbosity=VERBOSE) as console:
        console.log(text)
        console.show_record(record)
        console.show_rung(record, text)
        console.advance(3, text)
        console.console.print(study_table)
        console.console.print(console.bar.get_renderable())
    output = capsys.readouterr().out
    assert output.count(printable(text)) == 7  # three of them in the table
    for shown in (output, (tmp_path / "log.txt").read_text(encoding="utf-8")):
        assert not any(map(is_hidden, shown))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_in_tables_are_shown_and_move_no_column(text: str) -> None:
    records = small_search((16,))
    for record in records:
        if "ratio_name" in record:
            record["ratio_name"] = text
    assert printable(text) in printable(comparison_table(summarize(records)))
    node = NodeType(text, Resources(1, 0), 0, 1, machine=text)
    capacity = ClusterCapacity((node,), 1, text)
    table = node_table(capacity, Prices("2026-01-01", {}))
    assert printable(table).count(printable(text)) == 2


@pytest.mark.process
@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--set", "loss.\x1b[31mx=1"],
        ["train", "--set", "method=\x1b]0;title\x07"],
        ["report", "runs/\x1b[2J\u202e"],
        ["prepare", "camvid", "dir\rname", "--out", "x"],
        ["\x1b[31mnone"],
    ],
)
def test_error_message_shows_control_characters_written_out(
    argv: list[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cid_ray", *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert not any(map(is_hidden, done.stderr)), done.stderr
