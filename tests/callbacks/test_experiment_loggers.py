"""Laws of experiment loggers: they show what the records say, every run and every point once.

Read back by MLflow's client and TensorBoard's own reader: after an undisturbed search, after
kill -9, and when a logger is added to a search that has finished.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import tune
from cid_ray.callbacks.setup import LOGGERS, check_callbacks
from cid_ray.cli.run_options import resolve_paths
from cid_ray.config import InputError, build_config
from cid_ray.results.records import of_event, read_records
from cid_ray.storage.run_dir import RunDir
from tests.helpers.experiment_logger_checks import (
    AT_ONCE,
    WHEN_LOGGED,
    check_mlflow,
    check_tensorboard,
    check_wandb,
    removed_callbacks,
    run_search,
)
from tests.helpers.services import require_package
from tests.helpers.small_search import space_file

mlflow = require_package("mlflow")
require_package("tensorboard")

EXPERIMENT = "camvid"

# ---- simulated trials ----


@pytest.fixture
def loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorBoard, and MLflow with a store of plain files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for this
    arguments = {"tracking_uri": f"file:{tmp_path}/mlruns", "experiment_name": EXPERIMENT}
    return {"tensorboard": {}, "mlflow": arguments}


def check_both(tmp_path: Path) -> None:
    assert removed_callbacks(tmp_path / "run") == []
    check_mlflow(f"file:{tmp_path}/mlruns", EXPERIMENT, tmp_path / "run")
    check_tensorboard(tmp_path / "run")


def mlflow_runs(tmp_path: Path) -> list[Any]:
    client = mlflow.tracking.MlflowClient(tracking_uri=f"file:{tmp_path}/mlruns")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def test_loggers_have_every_run_once_also_after_resume_of_finished_search(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    run_search(tmp_path / "run", loggers)
    states = {record["state"] for record in of_event(read_records(tmp_path / "run"), "trial")}
    assert states == {"complete", "pruned", "failed"}
    check_both(tmp_path)
    run_search(tmp_path / "run", loggers)
    check_both(tmp_path)


@pytest.mark.process
@pytest.mark.parametrize(
    ("n_records", "when"),
    [
        pytest.param(6, WHEN_LOGGED, marks=pytest.mark.slow),
        pytest.param(13, WHEN_LOGGED, marks=pytest.mark.slow),
        (13, AT_ONCE),
    ],
)
def test_loggers_after_kill_9_continue_the_same_runs(
    n_records: int, when: str, tmp_path: Path, loggers: dict[str, Any]
) -> None:
    """The kill comes in the middle of a run."""
    module = "tests.helpers.experiment_logger_checks"
    arguments = [str(tmp_path / "run"), yaml.safe_dump(loggers), str(n_records), when]
    command = [sys.executable, "-m", module, *arguments]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    if when == WHEN_LOGGED:
        assert [run.info.status for run in mlflow_runs(tmp_path)].count("RUNNING") == 1
    run_search(tmp_path / "run", loggers)
    check_both(tmp_path)


def test_mlflow_run_that_a_kill_left_without_tags_begins_anew(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    uri = f"file:{tmp_path}/mlruns"
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(EXPERIMENT)
    for name in ("1_8-supervised-000", "a run of somebody else"):
        run = client.create_run(experiment, run_name=name)
        for tag in run.data.tags:
            client.delete_tag(run.info.run_id, tag)
    run_search(tmp_path / "run", {"mlflow": loggers["mlflow"]})
    run_search(tmp_path / "run", {"mlflow": loggers["mlflow"]})
    (foreign,) = (r for r in mlflow_runs(tmp_path) if r.info.run_name == "a run of somebody else")
    client.delete_run(foreign.info.run_id)  # it was left
    check_mlflow(uri, EXPERIMENT, tmp_path / "run")


@pytest.mark.parametrize("part", ["meta.yaml", "metrics/val/miou_teacher"])
def test_mlflow_run_that_a_kill_left_unreadable_is_logged_again(
    part: str, tmp_path: Path, loggers: dict[str, Any]
) -> None:
    """MLflow writes each of these into an empty file, and refuses every search while it is so."""
    run_search(tmp_path / "run", {"mlflow": loggers["mlflow"]})
    damaged = mlflow_runs(tmp_path)[0].info.run_id
    (file,) = (tmp_path / "mlruns").glob(f"*/{damaged}/{part}")
    file.write_text("")
    with pytest.raises(Exception, match=r"NoneType|malformed"):
        mlflow_runs(tmp_path)
    run_search(tmp_path / "run", {"mlflow": loggers["mlflow"]})
    check_mlflow(f"file:{tmp_path}/mlruns", EXPERIMENT, tmp_path / "run")
    assert damaged not in [run.info.run_id for run in mlflow_runs(tmp_path)]


def test_unreadable_mlflow_run_of_another_search_is_left(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    run_search(tmp_path / "other", {"mlflow": loggers["mlflow"]})
    damaged = mlflow_runs(tmp_path)[0].info.run_id
    (file,) = (tmp_path / "mlruns").glob(f"*/{damaged}/meta.yaml")
    file.write_text("")
    run_search(tmp_path / "run", {"mlflow": loggers["mlflow"]})
    assert file.read_text() == ""


@pytest.mark.process
def test_mlflow_run_with_half_written_parameter_is_logged_again(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    """What kill -9 can leave in a store of plain files; MLflow refuses to change a parameter."""
    loggers = {"mlflow": loggers["mlflow"]}
    arguments = [str(tmp_path / "run"), yaml.safe_dump(loggers), "13", WHEN_LOGGED]
    command = [sys.executable, "-m", "tests.helpers.experiment_logger_checks", *arguments]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    (running,) = (run for run in mlflow_runs(tmp_path) if run.info.status == "RUNNING")
    (parameter,) = (tmp_path / "mlruns").glob(f"*/{running.info.run_id}/params/method")
    parameter.write_text("")
    run_search(tmp_path / "run", loggers)
    assert removed_callbacks(tmp_path / "run") == []
    check_mlflow(f"file:{tmp_path}/mlruns", EXPERIMENT, tmp_path / "run")


def test_loggers_added_to_finished_search_get_all_of_it(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    run_search(tmp_path / "run", {})
    assert not (tmp_path / "run" / "tensorboard").exists()
    run_search(tmp_path / "run", loggers)
    check_both(tmp_path)


def test_logger_that_fails_is_named_and_search_continues(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    (tmp_path / "mlruns").write_text("a file where MLflow wants its folder")
    search = run_search(tmp_path / "run", loggers)
    assert removed_callbacks(tmp_path / "run") == ["mlflow"]
    assert len(search.store.finished()) == search.store.total_trials()
    check_tensorboard(tmp_path / "run")


def test_two_searches_in_one_experiment_stay_separate(
    tmp_path: Path, loggers: dict[str, Any]
) -> None:
    for name in ("one", "two"):
        run_search(tmp_path / name, {"mlflow": loggers["mlflow"]})
    by_search: dict[str, list[str]] = {}
    for run in mlflow_runs(tmp_path):
        by_search.setdefault(run.data.tags["search_id"], []).append(run.info.run_name)
    first, second = (sorted(names) for names in by_search.values())
    assert first == second
    assert len(set(first)) == len(first)


# ---- real trials ----


@pytest.mark.ray
@pytest.mark.slow
def test_loggers_of_real_search_have_every_run(
    ray_cluster: str, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of configuration. A trial whose loss is inf fails."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to its last store
    path = space_file(
        tmp_path,
        small_demo,
        ratios=["1/4"],
        trials=2,
        baselines=["supervised"],
        pruner={"name": "NopPruner"},
        space={"loss.style_weight": {"choice": [0.1, 1e38]}},
        points_to_evaluate=[{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}],
    )
    out = tmp_path / "run"
    options = ["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]
    options += ["--set", "search.callbacks={tensorboard: {}, mlflow: {}}"]
    assert tune.main(options) == 0
    assert removed_callbacks(out) == []
    records = read_records(out)
    trials = of_event(records, "trial")
    assert {record["state"] for record in trials} == {"complete", "failed"}
    assert sum("test/miou" in record for record in of_event(records, "final")) == 2
    check_mlflow(f"sqlite:///{out}/mlflow.db", "run", out)
    check_tensorboard(out)
    page = (out / "report" / "index.html").read_text()
    cid_runs = [record["run"] for record in trials if record["method"] == "cid"]
    assert cid_runs and all(run in page for run in cid_runs)  # loggers use the report's names


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wandb_offline_has_every_run(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_package("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_search(tmp_path / "run", {"wandb": {"project": "cid"}})
    assert removed_callbacks(tmp_path / "run") == []
    check_wandb(tmp_path / "run")


# ---- what is refused before Ray starts ----


def check(callbacks: str) -> None:
    check_callbacks(build_config({}, [f"search.callbacks={callbacks}"]), RunDir("run"))


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ("{tensorbord: {}}", r"`search.callbacks`.*tensorboard, mlflow, wandb.*'tensorbord'"),
        (
            "{tensorboard: {logdir: x}}",
            r"unknown key `search.callbacks.tensorboard.logdir`; it may have none",
        ),
        (
            "{mlflow: {experiment: x}}",
            r"`search.callbacks.mlflow.experiment`; it may have experiment_name, ",
        ),
        ("{mlflow: {save_artifact: true}}", r"save_artifact.*checkpoints stay in the run folder"),
        ("{mlflow: {tracking_uri: 'gopher://x'}}", r"`search.callbacks.mlflow` is .*gopher"),
    ],
)
def test_check_callbacks_mistake_is_refused(callbacks: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(callbacks)


@pytest.mark.parametrize(
    "callbacks",
    [
        "{wandb: {project: x, api_key: abc123}}",
        "{mlflow: {tracking_token: abc123}}",
        "{mlflow: {tracking_uri: 'https://me:abc123@host'}}",
    ],
)
def test_check_callbacks_secret_is_refused_and_not_repeated(callbacks: str) -> None:
    with pytest.raises(InputError, match="environment") as error:
        check(callbacks)
    assert "abc123" not in str(error.value)


@pytest.mark.parametrize("name", LOGGERS)
def test_check_callbacks_missing_package_names_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Python sees a package that is not installed.
    monkeypatch.setitem(sys.modules, LOGGERS[name].package, None)
    message = rf"search.callbacks.{name}.*pip install 'cid_ray\[{name}\]'"
    with pytest.raises(InputError, match=message):
        check(f"{{{name}: {{}}}}")


def test_check_callbacks_mlflow_in_object_store_needs_tracking_uri(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = build_config({}, {"search.callbacks": {"mlflow": {}}})
    with pytest.raises(InputError, match="needs a tracking_uri"):
        check_callbacks(config, RunDir("s3://bucket/run"))


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("mlruns", "{folder}/mlruns"),
        ("file:./mlruns", "file:{folder}/mlruns"),
        ("sqlite:///m.db", "sqlite:///{folder}/m.db"),
        ("sqlite:////m.db", "sqlite:////m.db"),
        ("https://host:5000", "https://host:5000"),
        ("databricks", "databricks"),
    ],
)
def test_resolve_paths_makes_mlflow_file_store_absolute(
    uri: str, resolved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's process has another working folder."""
    monkeypatch.chdir(tmp_path)
    config = build_config({}, {"search.callbacks": {"mlflow": {"tracking_uri": uri}}})
    arguments = resolve_paths(config).search.callbacks["mlflow"]
    assert arguments["tracking_uri"] == resolved.format(folder=tmp_path)
