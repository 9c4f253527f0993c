"""Law: the live table shows the numbers of the rows; without a terminal plain lines; -q leaves the end, -v adds."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyte
import pytest
import yaml

from cid_ray import train, tune
from cid_ray.config import InputError, override
from cid_ray.home import Home
from cid_ray.results.record import of_event, read_rows
from cid_ray.run.display import NORMAL, QUIET, VERBOSE, Display
from cid_ray.search.arms import check_search
from cid_ray.search.standing import Standing
from cid_ray.search.studies import Studies
from tests.chaos import curve, simulated_config, simulated_row
from tests.support import TINY
from tests.test_tune import space_file

COLUMNS, LINES = 110, 50
ERASE = b"\r\x1b[2K"  # how every redrawing begins
Cells = dict[tuple[str, str], list[str]]  # (labels, method) -> done, pruned, failed, ...


def in_a_terminal(command: list[str], env: dict[str, str]) -> tuple[int, list[list[str]], str]:
    """Exit code, every picture that the terminal has shown, and the raw output of a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    pictures = []
    for piece in output.split(ERASE):
        stream.feed(piece)
        pictures.append([line.rstrip() for line in screen.display])
        stream.feed(ERASE)
    return process.wait(), pictures, output.decode(errors="replace")


def table_of(picture: list[str]) -> Cells:
    """The last table of a picture: one row for every ratio and method, without the rows of running trials."""
    heads = [n for n, line in enumerate(picture) if line.startswith("labels ") and "over sup." in line]
    found: Cells = {}
    for line in picture[heads[-1] + 1 :] if heads else []:
        cells = re.split(r"\s{2,}", line.strip())
        if re.match(r"\S+ \(\d+\) ", line):
            found[cells[0], cells[1]] = cells[2:]
    return found


@pytest.fixture(scope="module")
def shown(
    ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[str]], str]:
    folder = tmp_path_factory.mktemp("terminal")
    space = {"loss.style_weight": {"choice": [0.1, 1e38]}}
    start = [{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}]
    path = space_file(
        folder, small_demo, ratios=["1/4"], space=space, start=start, trials=2,
        baselines=["supervised"], pruner={"name": "NopPruner"},
    )  # fmt: skip
    out = folder / "run"
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(path), "--out", str(out), "-v"]
    env = {**os.environ, "RAY_ADDRESS": ray_cluster, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    code, pictures, output = in_a_terminal([*command, "--set", "loss.style_ramp=0", "--set", "train.steps=80"], env)
    assert code == 0, output[-3000:]
    return out, pictures, output


@pytest.mark.ray
def test_the_last_live_table_shows_the_numbers_of_the_rows(shown: tuple[Path, list[list[str]], str]) -> None:
    out, pictures, _ = shown
    rows = read_rows(out)
    tables = [found for found in map(table_of, pictures) if found]
    best = {
        method: max(r["val/miou_teacher"] for r in of_event(rows, "final") if r["method"] == method)
        for method in ("supervised", "cid")
    }
    name = next(r["ratio_name"] for r in rows if "ratio_name" in r)
    over = f"{best['cid'] - best['supervised']:+.2f}"
    assert tables[-1] == {
        (name, "supervised"): ["1/1", "0", "0", f"best {best['supervised']:.2f}"],
        (name, "cid"): ["2/2", "0", "1", f"best {best['cid']:.2f}", over],
    }
    assert tables[0][name, "cid"] == ["0/2", "0", "0"]


@pytest.mark.ray
def test_a_running_trial_is_shown_with_its_rung_and_its_miou(shown: tuple[Path, list[list[str]], str]) -> None:
    out, pictures, _ = shown
    rung = next(r for r in of_event(read_rows(out), "rung") if r["run"] == "1_4-supervised-000")
    assert rung["step"] == 40
    seen = {" ".join(line.split()) for picture in pictures for line in picture if line.lstrip().startswith("- 1_4-")}
    assert "- 1_4-supervised-000 0/80 -" in seen
    assert any(line.startswith(f"- 1_4-supervised-000 40/80 {rung['val/miou_teacher']:.2f} 0:") for line in seen), seen


@pytest.mark.ray
def test_events_scroll_above_the_table_and_the_report_is_what_stays(shown: tuple[Path, list[list[str]], str]) -> None:
    out, pictures, _ = shown
    last = [line for line in pictures[-1] if line]
    assert not any(line.startswith("labels ") and "over sup." in line for line in last)
    assert any(line.startswith("wrote ") for line in last) and "trials ended in" in last[-1]
    told = " ".join("".join(picture) for picture in pictures)
    for event in ("1_4-supervised-000: begun", "1_4-supervised-000: complete", "1_4-cid-000: failed"):
        assert event in told and event in (out / "log.txt").read_text()


@pytest.mark.ray
def test_verbose_tells_the_traceback_of_a_failed_trial(shown: tuple[Path, list[list[str]], str]) -> None:
    out, _, output = shown
    reason = next(r for r in of_event(read_rows(out), "failed"))["traceback"].strip().splitlines()
    assert reason[0].startswith("Traceback") and reason[0] in output
    assert sum(line.strip() in (out / "log.txt").read_text() for line in reason) == len(reason)


@pytest.mark.ray
def test_quiet_tells_how_it_ends_and_nothing_else(
    shown: tuple[Path, list[list[str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, _ = shown
    log = out / "log.txt"
    before = len(log.read_text())
    assert tune.main(["--resume", str(out), "-q"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("labels ") and "trials ended in" in told[-1]
    assert any(line.startswith("wrote ") and line.endswith("index.html") for line in told)
    assert any(re.match(r"1/4 \(12\): [A-Z]", line) for line in told)  # the verdict
    assert not any("run folder" in line or "are done" in line for line in told)
    added = log.read_text()[before:]
    assert "run folder" in added and all(line in added for line in told)


def small_run(folder: Path, table: Path) -> list[str]:
    config = {**TINY, "data": {**TINY["data"], "table": str(table)}, "train": {"steps": 4, "rungs": [0.5, 1.0]}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**config, "method": "supervised"}))
    return ["--config", str(path), "--out", str(folder / "run")]


@pytest.mark.parametrize("flags", [[], ["-q"]])
def test_train_without_a_terminal_gives_plain_lines(
    flags: list[str],
    small_demo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert train.main([*small_run(tmp_path, small_demo), *flags]) == 0
    told = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", told)
    lines = told.splitlines()
    assert sum(line.startswith("step ") for line in lines) == (0 if flags else 2)
    assert lines[-1].startswith("wrote ") and any(line.startswith("last step: val mIoU") for line in lines)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert len(re.findall(r"(?m)^[\d:]{8} step ", log)) == 2 and all(line in log for line in lines)


def test_a_quiet_screen_still_warns(small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No pseudo-label passes a threshold of 1: a real warning of the run."""
    argv = [*small_run(tmp_path, small_demo), "-q", "--set", "method=mean_teacher", "--set", "loss.conf_thresh=1"]
    assert train.main([*argv, "--set", "train.alarm_steps=1"]) == 0
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize(("loudness", "shown"), [(QUIET, 0), (NORMAL, 0), (VERBOSE, 1)])
def test_what_lies_between_rungs_is_for_the_verbose(
    loudness: int, shown: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"event": "progress", **simulated_row(simulated_config(), "1_8-cid-007", 20)}
    with Display(tmp_path, 1, loudness=loudness) as display:
        display.progress(row, row["run"])
    told = capsys.readouterr().out
    assert told == "1_8-cid-007: step 20  loss 1.000  1 images/s\n" * shown
    assert told.strip() in (tmp_path / "log.txt").read_text()


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(InputError, match="not allowed with argument"):
        train.main(["-q", "-v"])


# ---- the numbers, without a screen ----


def test_the_standing_is_that_of_the_studies_whether_counted_or_read_back(tmp_path: Path) -> None:
    """Told trial by trial, and begun anew from the journal, it is the same; and equal to what the studies hold."""
    config = simulated_config(trials=6)
    names = {ratio: f"{ratio} (10)" for ratio in config.search.ratios}
    studies = Studies(Home(tmp_path), config, check_search(config))
    told = Standing(studies, names)
    while (assignment := studies.next()) is not None:
        told.begun(assignment, False)
        how = "pruned"
        for step in assignment.config.train.rung_steps:
            row = {"event": "rung", **simulated_row(assignment.config, assignment.name, step)}
            told.row(row)
            assert any(
                (r.name, r.step, r.value) == (assignment.name, step, curve(assignment.config, step))
                for line in told.lines() for r in line.running
            )  # fmt: skip
            if studies.rung(assignment.name, row):
                break
        else:
            told.row({**row, "event": "final"})
            how, _ = studies.complete(assignment.name, row)
        told.ended(assignment.name, how, "")
    again = Standing(Studies(Home(tmp_path), config, check_search(config)), names)
    counted = [(x.ratio, x.method, x.wanted, x.ended, x.running, x.best, x.over, x.repeats) for x in told.lines()]
    assert counted == [
        (x.ratio, x.method, x.wanted, x.ended, x.running, x.best, x.over, x.repeats) for x in again.lines()
    ]
    for line in told.lines():
        arm = next(a for a in studies.search_arms() if (names[a.ratio], a.method) == (line.ratio, line.method))
        assert line.best == studies.ranked(arm)[0].values[0]
        assert sum(line.ended.values()) == line.wanted == studies.wanted(arm)
        assert line.repeats == (2, 2)
    assert {line.ended.get("pruned", 0) > 0 for line in told.lines() if line.method == "cid"} == {True}


def test_the_eta_is_the_pace_so_far_times_what_is_left(tmp_path: Path) -> None:
    config = override(
        simulated_config(trials=4).model_dump(mode="json"), {"search.baselines": [], "search.ratios": ["1/8"]}
    )
    studies = Studies(Home(tmp_path), config, check_search(config))
    clock = iter([100.0, 110.0, 110.0])
    standing = Standing(studies, {"1/8": "1/8 (10)"}, now=lambda: next(clock))
    assignment = studies.next()
    assert assignment is not None
    standing.begun(assignment, False)
    row = simulated_row(assignment.config, assignment.name, 80)
    studies.complete(assignment.name, row)
    standing.row({"event": "final", **row})
    standing.ended(assignment.name, "complete", "")
    assert standing.lines()[0].eta == pytest.approx(3 * 10.0)
