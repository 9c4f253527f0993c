"""A search over simulated trials with experiment loggers, and checks of what they have logged.

`python -m tests.helpers.experiment_logger_checks OUT LOGGERS RECORDS WHEN` kills itself after so
many records. Search, records and loggers are real; a trial's records are those of
benchmarks/harness/chaos.py. `check_mlflow`, `check_tensorboard` and `check_wandb` read back what
was logged and compare it with the records.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.harness.chaos import RATIOS, simulated_config, simulated_record
from cid_ray.callbacks.background import BackgroundCallback
from cid_ray.callbacks.console import SearchConsole
from cid_ray.callbacks.experiment_logger import metrics_of
from cid_ray.callbacks.setup import make_loggers
from cid_ray.cli.console import RunConsole
from cid_ray.cli.parser import QUIET
from cid_ray.config import Config
from cid_ray.results.records import RECORDS_FILE, Record, of_event, read_records
from cid_ray.search.controller import Decision, Search
from cid_ray.search.status import SearchStatus
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage.run_dir import RunDir

FAILING_RUN = "1_8-cid-002"
TEST_SCORES = {"test/miou": 40.5, "test/miou_teacher": 41.5}
WHEN_LOGGED = "when-logged"  # kill when the loggers have logged everything so far
AT_ONCE = "at-once"  # kill although they have not
POLL_S = 0.05


# ---- the search ----


def logged_config(loggers: dict[str, Any]) -> Config:
    """A supervised baseline and four CID trials at two ratios, without repeats."""
    changes: dict[str, Any] = {
        "search.baselines": ["supervised"],
        "search.callbacks": loggers,
        "search.repeats.n": 0,
    }
    return simulated_config(trials=4, **changes)


def run_search(
    out: Path, loggers: dict[str, Any], n_records: int | None = None, when: str = AT_ONCE
) -> Search:
    """Run or resume a search to its end.

    Args:
        out: its run folder.
        loggers: `search.callbacks`.
        n_records: SIGKILL to this process after so many records; None: no kill.
        when: AT_ONCE, or WHEN_LOGGED to wait for the loggers first.

    Returns:
        The search, closed.
    """
    with (
        Search.open(logged_config(loggers), RunDir(out)) as search,
        RunConsole(out, search.total, verbosity=QUIET) as console,
    ):
        status = SearchStatus(search.store, {ratio: ratio for ratio in RATIOS})
        background = make_loggers(search)
        for callback in (status, SearchConsole(console, status), *background):
            search.add_callback(callback)
        reported = 0
        while (trial := search.next_trial()) is not None:
            for record in records_of(trial):
                if reported == n_records:
                    if when == WHEN_LOGGED:
                        wait_for(background)
                    os.kill(os.getpid(), signal.SIGKILL)
                reported += 1
                if search.report(record) is Decision.STOP:
                    break
        record_test_scores(search)
        # Simulated trials take no time, but W&B starts a process for each.
        wait_for(background)
    return search


def records_of(trial: TrialSpec) -> list[Record]:
    """A trial's records; that of FAILING_RUN fails after its first rung."""
    config = trial.config
    rungs: list[Record] = [
        {"event": "rung", **simulated_record(config, trial.name, step)}
        for step in config.train.rung_steps
    ]
    if trial.name == FAILING_RUN:
        reason = "FloatingPointError: step 11"
        failure = {"event": "failed", "run": trial.name, "reason": reason, "traceback": "-"}
        return [rungs[0], failure]
    final = {"event": "final", **simulated_record(config, trial.name, config.train.steps)}
    del final["losses"]
    return [*rungs, final]


def record_test_scores(search: Search) -> None:
    """What `Search.finalize` does with the test scores of each study's best run."""
    for key in search.store.search_keys():
        best = search.store.ranked(key)[0].user_attrs["run"]
        finals = of_event(read_records(search.run_dir.local), "final")
        record = next(final for final in finals if final["run"] == best) | TEST_SCORES
        search.events.records.append(record)
        search.callbacks.on_trial_result(record)


def wait_for(loggers: list[BackgroundCallback]) -> None:
    """Wait until every logger has logged all events so far, or has failed."""
    while any(logger.is_busy for logger in loggers):
        time.sleep(POLL_S)


def removed_callbacks(out: Path) -> list[str]:
    """The callbacks that log.txt says were removed."""
    log = (out / "log.txt").read_text()
    return re.findall(r"warning: callback (\S+) is removed: ", log)


# ---- what the records say ----

MLFLOW_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
Curves = dict[str, dict[int, float]]  # metric -> images seen -> value


def curves_of(out: Path, run: str) -> Curves:
    """The first value of each metric at each number of images.

    A winner's last record is written a second time, with its test scores.
    """
    records = [json.loads(line) for line in (out / RECORDS_FILE).read_text().splitlines()]
    found: Curves = {}
    for record in [*of_event(records, "final"), *of_event(records, "rung")]:
        if record["run"] == run:
            for metric, value in metrics_of(record).items():
                found.setdefault(metric, {}).setdefault(record["images_seen"], value)
    return found


def first_measured(records: list[Record], run: str) -> Record | None:
    """A run's first rung or final record."""
    measured = (r for r in records if r["run"] == run and r["event"] in ("rung", "final"))
    return next(measured, None)


def hyperparameters_of(record: Record | None) -> dict[str, Any]:
    """What a logger shows as a run's parameters; empty for a run without records."""
    if record is None:
        return {}
    return {name: record[name] for name in ("ratio", "method", "seed", "draw")} | record["params"]


# ---- read back ----


def check_mlflow(uri: str, experiment: str, out: Path) -> None:
    """Every run once, with its state, reason, hyperparameters and curves."""
    import mlflow

    records = read_records(out)
    trials = {record["run"]: record for record in of_event(records, "trial")}
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(trials)
    for run in runs:
        name = run.info.run_name
        trial = trials[name]
        assert run.info.status == MLFLOW_STATUS[trial["state"]]
        assert run.data.tags["state"] == trial["state"]
        assert run.data.tags["reason"] == trial["reason"]
        expected = curves_of(out, name)
        if not expected:  # it failed before its first rung
            assert trial["state"] == "failed"
            assert run.data.metrics["images_seen"] == 0
            continue
        params = hyperparameters_of(first_measured(records, name))
        assert run.data.params == {key: str(value) for key, value in params.items()}
        assert expected["val/miou_teacher"]
        assert run.data.metrics.keys() - {"training_iteration"} == expected.keys()
        for metric, curve in expected.items():
            history = client.get_metric_history(run.info.run_id, metric)
            assert {point.step: point.value for point in history} == curve, (name, metric)
            assert len(history) == len(curve), f"{name}: {metric} was logged twice"


def check_tensorboard(out: Path) -> None:
    """Every run has a folder with its curves, hyperparameters and state."""
    from tensorboard.backend.event_processing import event_accumulator

    records = read_records(out)
    states = {record["run"]: record["state"] for record in of_event(records, "trial")}
    folders = out / "tensorboard"
    assert sorted(folder.name for folder in folders.iterdir()) == sorted(states)
    everything = {event_accumulator.SCALARS: 0}
    for name, state in states.items():
        reader = event_accumulator.EventAccumulator(str(folders / name), size_guidance=everything)
        reader.Reload()
        for metric, curve in curves_of(out, name).items():
            points = reader.Scalars(f"ray/tune/{metric}")
            assert [point.step for point in points] == sorted(curve), (name, metric)
            values = [curve[step] for step in sorted(curve)]
            assert [point.value for point in points] == pytest.approx(values, rel=1e-6)
        expected = {**hyperparameters_of(first_measured(records, name)), "state": state}
        assert tensorboard_hyperparameters(reader).items() >= expected.items()


def tensorboard_hyperparameters(reader: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams import metadata

    content = reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}


def check_wandb(out: Path) -> None:
    """Every run has the files that W&B writes while it is offline, with its curves and config."""
    records = read_records(out)
    states = {record["run"]: record["state"] for record in of_event(records, "trial")}
    files: dict[str, list[Path]] = {}
    # A winner has a second file, with its test scores.
    for file in sorted((out / "wandb").glob("*run-*/*.wandb")):
        files.setdefault(file.stem.split("-", 2)[2], []).append(file)
    assert sorted(files) == sorted(states)
    for name, state in states.items():
        config, curves = read_wandb_run(files[name])
        expected = curves_of(out, name)
        assert {metric: curves[metric] for metric in expected} == expected, name
        params = hyperparameters_of(first_measured(records, name))
        assert config.items() >= {**params, "experiment_tag": state}.items()


def read_wandb_run(files: list[Path]) -> tuple[dict[str, Any], Curves]:
    """Config and curves of a run."""
    config: dict[str, Any] = {}
    curves: Curves = {}
    for record in (record for file in files for record in wandb_records(file)):
        for change in [*record.run.config.update, *record.config.update]:
            config[_wandb_key(change)] = json.loads(change.value_json)
        point = {_wandb_key(item): json.loads(item.value_json) for item in record.history.item}
        for metric, value in point.items():
            curves.setdefault(metric, {})[int(point["_step"])] = value
    return config, curves


def _wandb_key(item: Any) -> str:
    return str(item.key or "/".join(item.nested_key))


def wandb_records(path: Path) -> Iterator[Any]:
    """The records in one of W&B's files.

    Layout: a header of 7 bytes, then blocks of 32 KiB of chunks. A chunk has a checksum (4 bytes),
    a length (2), a type (1: whole, 2: first, 3: middle, 4: last) and its body.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    position = 7
    body = b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        size = int.from_bytes(data[position + 4 : position + 6], "little")
        chunk_type = data[position + 6]
        body += data[position + 7 : position + 7 + size]
        position += 7 + size
        if chunk_type in (1, 4):
            yield Record.FromString(body)
            body = b""


if __name__ == "__main__":
    arguments = sys.argv[1:]
    run_search(Path(arguments[0]), yaml.safe_load(arguments[1]), int(arguments[2]), arguments[3])
