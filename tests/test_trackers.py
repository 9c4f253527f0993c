"""Law: what a tracker shows is what the rows say: every run once, under its name, with settings, curve, score, end.

Read back by MLflow's client and TensorBoard's own reader, after an undisturbed search, after kill -9, and when a
tracker is switched on for a search that has ended.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import cli, tune
from cid_ray.config import InputError, override
from cid_ray.home import Home
from cid_ray.results.record import of_event, read_rows
from cid_ray.search import tracking
from tests import tracked
from tests.test_tune import space_file
from tests.tracked import check_mlflow, check_tensorboard, check_wandb

mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("tensorboard", reason="needs the extra tensorboard")

# ---- simulated trials: kills, and trackers that come late ----


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Both trackers, MLflow with a store of plain files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for this
    return {"tensorboard": {}, "mlflow": {"tracking_uri": f"file:{tmp_path}/mlruns", "experiment_name": "camvid"}}


def check_both(tmp_path: Path) -> None:
    check_mlflow(f"file:{tmp_path}/mlruns", "camvid", tmp_path / "run")
    check_tensorboard(tmp_path / "run")


def test_every_run_is_told_once_with_its_curve_and_its_end(tmp_path: Path, wanted: dict[str, Any]) -> None:
    watch = tracked.search(tmp_path / "run", wanted)
    assert len(watch.listeners) == 2  # none was left out
    states = {row["state"] for row in of_event(read_rows(tmp_path / "run"), "trial")}
    assert states == {"complete", "pruned", "failed"}
    check_both(tmp_path)
    tracked.search(tmp_path / "run", wanted)  # a resume of what has ended tells nothing again
    check_both(tmp_path)


@pytest.mark.parametrize(
    ("rows", "when"),
    [pytest.param(6, "patient", marks=pytest.mark.slow), pytest.param(13, "patient", marks=pytest.mark.slow),
     (13, "at-once")],
)  # fmt: skip
def test_after_kill_9_the_same_runs_go_on(rows: int, when: str, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """In the middle of a run: when the trackers had taken in all they were told, and when they had not."""
    command = [sys.executable, "-m", "tests.tracked", str(tmp_path / "run"), yaml.safe_dump(wanted), str(rows), when]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    if when == "patient":
        client = mlflow.tracking.MlflowClient(tracking_uri=f"file:{tmp_path}/mlruns")
        runs = client.search_runs([client.get_experiment_by_name("camvid").experiment_id])
        assert [run.info.status for run in runs].count("RUNNING") == 1
    assert len(tracked.search(tmp_path / "run", wanted).listeners) == 2
    check_both(tmp_path)


def test_a_tracker_that_comes_late_is_told_the_whole_search(tmp_path: Path, wanted: dict[str, Any]) -> None:
    tracked.search(tmp_path / "run", {})
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len(tracked.search(tmp_path / "run", wanted).listeners) == 2
    check_both(tmp_path)


def test_a_tracker_that_fails_is_named_and_the_search_goes_on(tmp_path: Path, wanted: dict[str, Any]) -> None:
    blocked = tmp_path / "mlruns"
    blocked.write_text("a file where MLflow wants its folder")
    watch = tracked.search(tmp_path / "run", wanted)
    assert [listener.name for listener in watch.listeners] == ["tensorboard"]  # type: ignore[attr-defined]
    assert "warning: mlflow is left out: " in (tmp_path / "run" / "log.txt").read_text()
    assert len(watch.studies.ended()) == watch.studies.total()
    check_tensorboard(tmp_path / "run")


def test_two_searches_in_one_experiment_stay_apart(tmp_path: Path, wanted: dict[str, Any]) -> None:
    for name in ("one", "two"):
        tracked.search(tmp_path / name, {"mlflow": wanted["mlflow"]})
    client = mlflow.tracking.MlflowClient(tracking_uri=f"file:{tmp_path}/mlruns")
    runs = client.search_runs([client.get_experiment_by_name("camvid").experiment_id])
    by_search: dict[str, list[str]] = {}
    for run in runs:
        by_search.setdefault(run.data.tags["search_id"], []).append(run.info.run_name)
    first, second = (sorted(names) for names in by_search.values())
    assert first == second and len(set(first)) == len(first)


# ---- a real search ----


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_search_is_told_to_both(
    ray_cluster: str, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of configuration; a trial that overflows fails."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to the store last used
    path = space_file(
        tmp_path, small_demo, ratios=["1/4"], trials=2, baselines=["supervised"], pruner={"name": "NopPruner"},
        space={"loss.style_weight": {"choice": [0.1, 1e38]}},
        start=[{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}],
    )  # fmt: skip
    out = tmp_path / "run"
    argv = ["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]
    assert tune.main([*argv, "--set", "search.trackers={tensorboard: {}, mlflow: {}}"]) == 0
    assert "left out" not in (out / "log.txt").read_text()
    rows = read_rows(out)
    assert {row["state"] for row in of_event(rows, "trial")} == {"complete", "failed"}
    assert sum("test/miou" in row for row in of_event(rows, "final")) == 2
    check_mlflow(f"sqlite:///{out}/mlflow.db", "run", out)
    check_tensorboard(out)
    page = (out / "report" / "index.html").read_text()
    names = [row["run"] for row in of_event(rows, "trial") if "-cid-" in row["run"]]
    assert names and all(name in page for name in names)  # the names of the report


@pytest.mark.ray
@pytest.mark.slow
def test_wandb_is_told_every_run(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    watch = tracked.search(tmp_path / "run", {"wandb": {"project": "cid"}})
    assert len(watch.listeners) == 1
    check_wandb(tmp_path / "run")


# ---- what is refused, before Ray starts ----


def check(text: str) -> None:
    tracking.check(override({}, [f"search.trackers={text}"]), Home("run"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{tensorbord: {}}", r"`search.trackers`.*tensorboard, mlflow, wandb.*'tensorbord'"),
        ("{tensorboard: {logdir: x}}", r"unknown key `search.trackers.tensorboard.logdir`; it may have none"),
        ("{mlflow: {experiment: x}}", r"`search.trackers.mlflow.experiment`; it may have experiment_name, "),
        ("{mlflow: {save_artifact: true}}", r"save_artifact.*checkpoints stay in the run's folder"),
        ("{mlflow: {tracking_uri: 'gopher://x'}}", r"`search.trackers.mlflow` is .*gopher"),
    ],
)
def test_a_mistake_is_told_before_ray_starts(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check(text)


@pytest.mark.parametrize(
    "text",
    [
        "{wandb: {project: x, api_key: abc123}}",
        "{mlflow: {tracking_token: abc123}}",
        "{mlflow: {tracking_uri: 'https://me:abc123@host'}}",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError, match="environment") as told:
        check(text)
    assert "abc123" not in str(told.value)


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_package_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, tracking.TRACKERS[name].package, None
    )  # as Python sees a package that is not there
    with pytest.raises(InputError, match=rf"search.trackers.{name}.*pip install 'cid_ray\[{name}\]'"):
        check(f"{{{name}: {{}}}}")


def test_a_store_in_a_file_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given, meant in [
        ("mlruns", f"{tmp_path}/mlruns"),
        ("file:./mlruns", f"file:{tmp_path}/mlruns"),
        ("sqlite:///m.db", f"sqlite:///{tmp_path}/m.db"),
        ("sqlite:////m.db", "sqlite:////m.db"),
        ("https://host:5000", "https://host:5000"),
        ("databricks", "databricks"),
    ]:
        config = override({}, {"search.trackers": {"mlflow": {"tracking_uri": given}}})
        assert cli.absolute(config).search.trackers["mlflow"]["tracking_uri"] == meant
