"""Laws of what a run prints, against its records: live table on a terminal, plain lines elsewhere.

The terminal is a pseudo-terminal whose output pyte interprets, picture by picture. -q leaves only
results, warnings and errors; -v adds what happens between rungs.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pyte
import pytest
import yaml

from benchmarks.harness.chaos import simulated_config, simulated_record
from cid_ray.cli.console import RunConsole
from cid_ray.cli.parser import NORMAL, QUIET, VERBOSE
from cid_ray.config import InputError
from cid_ray.results.records import of_event, read_records
from cid_ray.train import main as train_main
from cid_ray.tune import main as tune_main
from tests.helpers.small_search import space_file
from tests.helpers.tiny_run import TINY

COLUMNS, LINES = 110, 50
ERASE = b"\r\x1b[2K"  # how rich starts to redraw
CONTROL_CODES = r"[\x00-\x09\x0b-\x1f\x7f]"
Screen = list[str]  # the lines of the terminal at one moment
Cells = dict[tuple[str, str], list[str]]  # (labels, method) -> done, pruned, failed, ...


@dataclass
class TerminalSearch:
    """A verbose search with a failing trial, as a terminal showed it."""

    out: Path
    screens: list[Screen]
    output: str


def run_in_terminal(command: list[str], env: dict[str, str]) -> tuple[int, list[Screen], str]:
    """Exit code, every screen that the terminal has shown, and the raw output of a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the command has closed its end
            break
    os.close(ours)
    terminal = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(terminal)
    screens = []
    for piece in output.split(ERASE):
        stream.feed(piece)
        screens.append([line.rstrip() for line in terminal.display])
        stream.feed(ERASE)
    return process.wait(), screens, output.decode(errors="replace")


def is_table_head(line: str) -> bool:
    return line.startswith("labels ") and "over sup." in line


def table_of(screen: Screen) -> Cells:
    """The last table of a screen: a line per ratio and method, without those of running trials."""
    heads = [number for number, line in enumerate(screen) if is_table_head(line)]
    cells: Cells = {}
    for line in screen[heads[-1] + 1 :] if heads else []:
        columns = re.split(r"\s{2,}", line.strip())
        if re.match(r"\S+ \(\d+\) ", line):
            cells[columns[0], columns[1]] = columns[2:]
    return cells


@pytest.fixture(scope="module")
def search(
    ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> TerminalSearch:
    folder = tmp_path_factory.mktemp("terminal")
    path = space_file(
        folder,
        small_demo,
        ratios=["1/4"],
        space={"loss.style_weight": {"choice": [0.1, 1e38]}},
        # The first trial fails: its loss is inf.
        points_to_evaluate=[{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}],
        trials=2,
        baselines=["supervised"],
        pruner={"name": "NopPruner"},
    )
    out = folder / "run"
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(path), "--out", str(out), "-v"]
    command += ["--set", "loss.style_ramp=0", "--set", "train.steps=80"]
    terminal = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    env = {**os.environ, **terminal, "RAY_ADDRESS": ray_cluster}
    code, screens, output = run_in_terminal(command, env)
    assert code == 0, output[-3000:]
    return TerminalSearch(out, screens, output)


@pytest.mark.ray
def test_live_table_at_end_shows_numbers_of_records(search: TerminalSearch) -> None:
    records = read_records(search.out)
    tables = [table for table in map(table_of, search.screens) if table]
    best = {
        method: max(
            record["val/miou_teacher"]
            for record in of_event(records, "final")
            if record["method"] == method
        )
        for method in ("supervised", "cid")
    }
    name = next(record["ratio_name"] for record in records if "ratio_name" in record)
    over = f"{best['cid'] - best['supervised']:+.2f}"
    assert tables[-1] == {
        (name, "supervised"): ["1/1", "0", "0", f"best {best['supervised']:.2f}"],
        (name, "cid"): ["2/2", "0", "1", f"best {best['cid']:.2f}", over],
    }
    assert tables[0][name, "cid"] == ["0/2", "0", "0"]


@pytest.mark.ray
def test_live_table_running_trial_shows_step_and_miou_of_rung(search: TerminalSearch) -> None:
    run = "1_4-supervised-000"
    rung = next(r for r in of_event(read_records(search.out), "rung") if r["run"] == run)
    assert rung["step"] == 40
    lines = [line for screen in search.screens for line in screen]
    trials = {" ".join(line.split()) for line in lines if line.lstrip().startswith("- 1_4-")}
    assert f"- {run} 0/80 -" in trials
    after_rung = f"- {run} 40/80 {rung['val/miou_teacher']:.2f} 0:"
    assert any(line.startswith(after_rung) for line in trials), trials


@pytest.mark.ray
def test_events_scroll_above_table_and_report_remains(search: TerminalSearch) -> None:
    last = [line for line in search.screens[-1] if line]
    assert not any(is_table_head(line) for line in last)
    assert any(line.startswith("wrote ") for line in last) and "trials finished in" in last[-1]
    shown = " ".join("".join(screen) for screen in search.screens)
    log = (search.out / "log.txt").read_text()
    for event in (
        "1_4-supervised-000: started",
        "1_4-supervised-000: complete",
        "1_4-cid-000: failed",
    ):
        assert event in shown and event in log


@pytest.mark.ray
def test_verbose_failed_trial_prints_traceback(search: TerminalSearch) -> None:
    failed = next(r for r in of_event(read_records(search.out), "failed"))
    traceback = failed["traceback"].strip().splitlines()
    log = (search.out / "log.txt").read_text()
    assert traceback[0].startswith("Traceback") and traceback[0] in search.output
    assert all(line.strip() in log for line in traceback)


@pytest.mark.ray
def test_quiet_resume_of_finished_search_prints_result_only(
    search: TerminalSearch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = search.out / "log.txt"
    before = len(log.read_text())
    assert tune_main(["--resume", str(search.out), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("labels ") and "trials finished in" in lines[-1]
    assert any(line.startswith("wrote ") and line.endswith("index.html") for line in lines)
    assert any(re.match(r"1/4 \(12\): [A-Z]", line) for line in lines)  # the verdict
    assert not any("run folder" in line or "have finished" in line for line in lines)
    added = log.read_text()[before:]
    assert "run folder" in added and all(line in added for line in lines)


def small_run(folder: Path, table: Path) -> list[str]:
    """Options of a supervised run of 4 steps."""
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(table)},
        "train": {"steps": 4, "rungs": [0.5, 1.0]},
        "method": "supervised",
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path), "--out", str(folder / "run")]


@pytest.mark.parametrize("flags", [[], ["-q"]])
def test_train_without_terminal_prints_plain_lines(
    flags: list[str],
    small_demo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert train_main([*small_run(tmp_path, small_demo), *flags]) == 0
    output = capsys.readouterr().out
    assert not re.search(CONTROL_CODES, output)
    lines = output.splitlines()
    assert sum(line.startswith("step ") for line in lines) == (0 if flags else 2)
    assert lines[-1].startswith("wrote ")
    assert any(line.startswith("last step: val mIoU") for line in lines)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert len(re.findall(r"(?m)^[\d:]{8} step ", log)) == 2
    assert all(line in log for line in lines)


def test_quiet_run_with_warning_prints_warning(
    small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pseudo-label passes a threshold of 1: a real warning of the run."""
    options = [*small_run(tmp_path, small_demo), "-q", "--set", "method=mean_teacher"]
    options += ["--set", "loss.conf_thresh=1", "--set", "train.warn_no_pseudo_steps=1"]
    assert train_main(options) == 0
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize(("verbosity", "count"), [(QUIET, 0), (NORMAL, 0), (VERBOSE, 1)])
def test_progress_between_rungs_is_printed_when_verbose(
    verbosity: int, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"event": "progress", **simulated_record(simulated_config(), "1_8-cid-007", 20)}
    with RunConsole(tmp_path, 1, verbosity=verbosity) as console:
        console.show_progress(record, record["run"])
    output = capsys.readouterr().out
    assert output == "1_8-cid-007: step 20  loss 1.000  1 images/s\n" * count
    assert output.strip() in (tmp_path / "log.txt").read_text()


def test_quiet_with_verbose_is_refused() -> None:
    with pytest.raises(InputError, match="not allowed with argument"):
        train_main(["-q", "-v"])
