"""A search that ends in a noise floor: the best and the baselines again, in pairs, on real Ray with real training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray import tune
from cid_ray.results.record import read_rows
from tests.test_tune import space_file, states

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def confirmed(ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("confirmed")
    path = space_file(folder, small_demo, trials=3, ratios=["1/4"], baselines=["supervised"], confirm={"repeats": 2})
    assert tune.main(["--config", str(path), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_candidates_are_repeated_on_the_same_seeds_and_draws(confirmed: Path) -> None:
    finals = [row for row in read_rows(confirmed) if row["event"] == "final"]
    search = {row["method"]: row for row in read_rows(confirmed) if row["event"] == "search"}
    pairs = {(row["confirms"], row["pair"]): row for row in finals if "confirms" in row}
    assert {run for run, _ in pairs} == {search["cid"]["best"], "1_4-supervised-000"}
    for pair in (1, 2):
        mine, theirs = (pairs[run, pair] for run in (search["cid"]["best"], "1_4-supervised-000"))
        assert (mine["seed"], mine["draw"], mine["split_id"]) == (theirs["seed"], theirs["draw"], theirs["split_id"])
        assert "test/miou_teacher" in mine and "test/miou_teacher" in theirs
    assert len({row["split_id"] for row in pairs.values()}) == 2
    winner = next(row for row in finals if row["run"] == search["cid"]["best"])
    assert all(row["params"] == winner["params"] for (run, _), row in pairs.items() if run == winner["run"])


def test_the_noise_floor_stands_in_rows_and_page_and_repeats_leave_no_checkpoints(confirmed: Path) -> None:
    noise = [row for row in read_rows(confirmed) if row["event"] == "noise"]
    assert {row["split"] for row in noise} == {"val", "test"}
    assert all(row["n"] == 2 and row["floor"] > 0 for row in noise)
    floor = next(row["floor"] for row in noise if row["split"] == "test")
    page = (confirmed / "report" / "index.html").read_text()
    assert f"{floor:.2f}" in page and "noise floor" in page
    assert not list((confirmed / "checkpoints").glob("*-pair*"))


def test_resuming_runs_no_repeat_again(confirmed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = states(confirmed)
    assert before["1/4 supervised, repeats of 1_4-supervised-000"] == {"COMPLETE": 2}
    assert tune.main(["--resume", str(confirmed)]) == 0
    assert states(confirmed) == before
    assert ": begun" not in capsys.readouterr().out


def test_warm_start_and_two_objectives_from_the_command_line(
    ray_cluster: str, confirmed: Path, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=[], cost="latency_ms",
                      pruner={"name": "NopPruner"})  # fmt: skip
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--warm-start", str(confirmed)]) == 0
    rows = read_rows(out)
    earlier = [r["params"] for r in read_rows(confirmed) if r["event"] == "final" and r["method"] == "cid"]
    first = next(r for r in rows if r["event"] == "rung" and r["run"] == "1_4-cid-000")
    assert first["params"] in earlier
    (search,) = (r for r in rows if r["event"] == "search")
    assert search["cost"] == "latency_ms" and search["pareto"]
    assert all(point["cost"] > 0 for point in search["pareto"])
    assert "Pareto" in (out / "report" / "index.html").read_text()


def test_options_that_do_not_go_together_are_refused(confirmed: Path) -> None:
    for arguments, words in (
        (["--extend", "3"], "--resume"),
        (["--resume", str(confirmed), "--extend", "0"], "--extend 0"),
        (["--resume", str(confirmed), "--warm-start", str(confirmed)], "new run"),
        (["--warm-start", "nowhere"], "nowhere"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cid_ray.tune", *arguments], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
