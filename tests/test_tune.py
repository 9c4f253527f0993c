"""The main job on real Ray: contract of the run's folder, resume after kill -9, budget, failures, placement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cid_ray import tune
from cid_ray.config import InputError
from cid_ray.results.record import read_rows
from tests.support import TINY
from tests.tracked import check_tensorboard

pytestmark = pytest.mark.ray
METHODS = ("supervised", "pool_bn", "mean_teacher", "cid")


def space_file(folder: Path, table: Path, **search: Any) -> Path:
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(table)},
        "train": {"steps": 6, "rungs": [0.5, 1.0], "samples": 2},
        "search": {
            "ratios": ["1/8", "1/4"],
            "trials": 3,
            "space": {
                "loss.relation_kind": {"choice": ["self", "cross", "transfer", "class"]},
                "loss.relation_weight": {"float": [0.01, 1.0], "log": True},
            },
            "pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}},
            **search,
        },
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def states(out: Path) -> dict[str, Counter[str]]:
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return {
        name: Counter(t.state.name for t in optuna.load_study(study_name=name, storage=storage).trials)
        for name in optuna.get_all_study_names(storage)
    }


@pytest.fixture(scope="module")
def finished(ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    out = folder / "run"
    path = space_file(folder, small_demo, trackers={"tensorboard": {}})
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    return out


def test_the_runs_folder_is_the_contract(finished: Path) -> None:
    for name in ("config.yaml", "rows.jsonl", "study.journal", "log.txt", "report/index.html", "report/report.md"):
        assert (finished / name).stat().st_size > 0
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["search"]["trials"] == 3


def test_every_trial_ended_once_in_its_study(finished: Path) -> None:
    found = states(finished)
    assert set(found) == {f"{ratio} {method}" for ratio in ("1/8", "1/4") for method in METHODS}
    for name, counts in found.items():
        assert set(counts) <= {"COMPLETE", "PRUNED"}
        assert counts.total() == (3 if name.endswith("cid") else 1)


def test_every_number_of_the_studies_stands_in_the_rows(finished: Path) -> None:
    rows = read_rows(finished)
    curves: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["event"] == "rung":
            curves.setdefault(row["run"], {})[row["images_seen"]] = row["val/miou_teacher"]
    storage = JournalStorage(JournalFileBackend(str(finished / "study.journal")))
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            assert curves[trial.user_attrs["run"]] == pytest.approx(trial.intermediate_values)
            if trial.state.name == "COMPLETE":
                assert trial.value == pytest.approx(list(trial.intermediate_values.values())[-1])


def test_winners_and_baselines_are_tested_and_their_checkpoints_kept(finished: Path) -> None:
    rows = read_rows(finished)
    finals = {r["run"]: r for r in rows if r["event"] == "final"}
    best = {r["ratio"]: r["best"] for r in rows if r["event"] == "search" and r["method"] == "cid"}
    assert set(best) == {"1/8", "1/4"}
    tested = {run for run, row in finals.items() if "test/miou" in row}
    baselines = {run for run, row in finals.items() if row["method"] != "cid"}
    assert tested == set(best.values()) | baselines
    kept = {p.name for p in (finished / "checkpoints").iterdir()}
    assert kept == tested
    for run in tested:
        assert finals[run]["held_out"] == "test"
        assert len(finals[run]["samples"]) == 2
        assert all((finished / s["prediction"]).is_file() for s in finals[run]["samples"])
    for run in best.values():
        assert set(finals[run]["params"]) == {"loss.relation_kind", "loss.relation_weight"}


def test_the_winner_is_the_best_on_val_at_its_last_step(finished: Path) -> None:
    rows = read_rows(finished)
    for search in (r for r in rows if r["event"] == "search" and r["method"] == "cid"):
        full = {
            r["run"]: r["val/miou_teacher"]
            for r in rows
            if r["event"] == "final" and r["method"] == "cid" and r["ratio"] == search["ratio"]
        }
        assert full[search["best"]] == max(full.values())


def test_the_page_shows_table_curves_and_pictures(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert page.count("<svg") >= 3
    assert page.count("data:image/png;base64,") == 2 * 2 * 4
    assert "supervised, pool through batch norm" in page and "(baseline)" in page


def test_tensorboard_shows_what_the_rows_say(finished: Path) -> None:
    check_tensorboard(finished)


def test_resuming_a_finished_search_runs_nothing_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = states(finished)
    assert tune.main(["--resume", str(finished)]) == 0
    assert states(finished) == before
    assert ": begun" not in capsys.readouterr().out


def test_trials_that_raise_fail_alone_with_their_reason(ray_cluster: str, small_demo: Path, tmp_path: Path) -> None:
    """A weight that overflows makes the loss infinite in some trials: a real failure, not an injected one."""
    space = {"loss.style_weight": {"choice": [0.1, 1e38]}}
    start = [{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}]
    path = space_file(
        tmp_path, small_demo, space=space, start=start, trials=2, ratios=["1/4"], pruner={"name": "NopPruner"}
    )
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]) == 0
    assert states(out)["1/4 cid"] == {"FAIL": 1, "COMPLETE": 1}
    reasons = [r["reason"] for r in read_rows(out) if r["event"] == "trial" and r["state"] == "failed"]
    assert len(reasons) == 1 and "FloatingPointError" in reasons[0]
    assert "FloatingPointError" in (out / "report" / "index.html").read_text()


def test_a_budget_ends_the_search_with_a_usable_report(ray_cluster: str, small_demo: Path, tmp_path: Path) -> None:
    path, out = space_file(tmp_path, small_demo, trials=500, ratios=["1/4"]), tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--budget", "45"]) == 0
    found = states(out)
    assert 0 < found["1/4 cid"].total() < 500
    assert "mean teacher" in (out / "report" / "index.html").read_text()
    assert "--resume" in (out / "log.txt").read_text()


def test_a_trial_that_can_never_be_placed_is_refused_at_once(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, cpus_per_trial=64)
    with pytest.raises(InputError, match=r"64 CPU.*2 CPU.*cpus_per_trial"):
        tune.main(["--config", str(path), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_more_concurrency_than_fits_still_ends(ray_cluster: str, small_demo: Path, tmp_path: Path) -> None:
    path = space_file(tmp_path, small_demo, concurrency=50, trials=2, ratios=["1/4"], baselines=[])
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    assert states(out)["1/4 cid"].total() == 2


def test_after_kill_9_the_search_resumes_and_loses_and_repeats_nothing(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path, out = space_file(tmp_path, small_demo, trials=4, ratios=["1/4"]), tmp_path / "run"
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(path), "--out", str(out)]
    process = subprocess.Popen(
        command, env={**os.environ, "RAY_ADDRESS": ray_cluster}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150
    while sum(r["event"] == "trial" for r in read_rows(out)) < 4 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {r["run"]: r["state"] for r in read_rows(out) if r["event"] == "trial"}
    assert len(before) >= 4
    assert tune.main(["--resume", str(out)]) == 0
    after = {r["run"]: r["state"] for r in read_rows(out) if r["event"] == "trial"}
    assert before.items() <= after.items()
    assert len(after) == 3 + 4
    found = states(out)
    assert sum(c.total() for c in found.values()) == 7
    assert all(set(c) <= {"COMPLETE", "PRUNED"} for c in found.values())
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    ended = Counter(r["run"] for r in lines if r["event"] == "trial")
    assert set(ended.values()) == {1}


def test_ctrl_c_stops_with_a_report_and_the_way_to_go_on(ray_cluster: str, small_demo: Path, tmp_path: Path) -> None:
    path, out = space_file(tmp_path, small_demo, trials=500, ratios=["1/4"]), tmp_path / "run"
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(path), "--out", str(out)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "RAY_ADDRESS": ray_cluster},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 150
    while sum(r["event"] == "trial" for r in read_rows(out)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"--resume {out}" in shown
    assert (out / "report" / "index.html").is_file()


@pytest.mark.slow
def test_trials_of_two_workers_are_searched_and_pruned_like_others(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=["supervised"])
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--set", "scale.workers=2"]) == 0
    found = states(out)
    assert found["1/4 supervised"] == {"COMPLETE": 1}
    assert found["1/4 cid"].total() == 2 and set(found["1/4 cid"]) <= {"COMPLETE", "PRUNED"}
    finals = [r for r in read_rows(out) if r["event"] == "final"]
    assert all(r["workers"] == 2 for r in finals) and all(
        "test/miou" in r for r in finals if r["method"] == "supervised"
    )
