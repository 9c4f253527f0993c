"""A search over simulated trials, told to trackers; `python -m tests.tracked OUT TRACKERS ROWS WHEN` kills itself.

The studies, the watch, the record and the trackers are the real ones; a trial's rows are those of tests/chaos.py.
`check_mlflow` and `check_tensorboard` read back what was told, and hold it against the rows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray.config import Config
from cid_ray.home import Home
from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.run.display import QUIET, Display
from cid_ray.search import tracking
from cid_ray.search.arms import check_search
from cid_ray.search.behind import Behind
from cid_ray.search.journal import Hold
from cid_ray.search.studies import Studies
from cid_ray.search.tracker import measured
from cid_ray.search.watch import Watch
from tests.chaos import simulated_config, simulated_row

FAILS = "1_8-cid-002"


def tracked_config(wanted: dict[str, Any]) -> Config:
    changes = {"search.baselines": ["supervised"], "search.trackers": wanted, "search.confirm.repeats": 0}
    return simulated_config(trials=4, **changes)


def search(out: Path, wanted: dict[str, Any], most: int = 10**9, patient: bool = False) -> Watch:
    """Run or resume the search to its end; SIGKILL to this process after so many rows, `patient`: told to all."""
    config = tracked_config(wanted)
    out.mkdir(parents=True, exist_ok=True)
    with Hold(out) as hold, Display(out, 1, loudness=QUIET) as display:
        studies = Studies(Home(out), config, check_search(config))
        watch = Watch(Home(out), hold, studies, display, None)
        told = tracking.start(Home(out), studies)
        watch.listeners += told
        left = most
        while True:
            resumed = bool(studies.pending)
            assignment = studies.next()
            if assignment is None:
                break
            watch.begun(assignment, resumed)
            for row in rows_of(assignment):
                if left == 0:
                    while patient and any(busy(listener) for listener in told):
                        time.sleep(0.05)
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                watch.row(row)
                if not goes_on(studies, watch, row):
                    break
        for arm in studies.search_arms():
            best = studies.ranked(arm)[0].user_attrs["run"]
            row = next(r for r in read_rows(out) if r["run"] == best and r["event"] == "final")
            watch.tested({**row, "test/miou": 40.5, "test/miou_teacher": 41.5})
        while any(busy(listener) for listener in told):  # trials of no length: W&B starts a process for each
            time.sleep(0.05)
        watch.tell("close")
    return watch


def busy(listener: Behind) -> bool:
    return listener.error is None and listener.news.unfinished_tasks > 0


def rows_of(assignment: Any) -> list[Row]:
    config, name = assignment.config, assignment.name
    rows = [{"event": "rung", **simulated_row(config, name, step)} for step in config.train.rung_steps]
    if name == FAILS:
        return [rows[0], {"event": "failed", "run": name, "reason": "FloatingPointError: step 11", "traceback": "-"}]
    final = simulated_row(config, name, config.train.steps)
    del final["losses"]
    return [*rows, {"event": "final", **final}]


def goes_on(studies: Studies, watch: Watch, row: Row) -> bool:
    """As search.tuning.StudyScheduler.decide."""
    name = row["run"]
    if row["event"] == "failed":
        studies.fail(name, row["reason"])
        watch.ended(name, "failed", row["reason"])
    elif row["event"] == "rung" and studies.rung(name, row):
        watch.ended(name, "pruned")
    elif row["event"] == "final":
        watch.ended(name, *studies.complete(name, row))
    return name in studies.live


# ---- read back ----

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
Curves = dict[str, dict[int, float]]  # what is measured -> images seen -> value


def curves_of(out: Path, run: str) -> Curves:
    """What the rows of a run said first: a winner's last row is written once more, with its test score."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    found: Curves = {}
    for row in [*of_event(rows, "final"), *of_event(rows, "rung")]:
        if row["run"] == run:
            for key, value in measured(row).items():
                found.setdefault(key, {}).setdefault(row["images_seen"], value)
    return found


def settings_of(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("ratio", "method", "seed", "draw")} | row["params"]


def check_mlflow(uri: str, experiment: str, out: Path) -> None:
    rows = read_rows(out)
    ends = {row["run"]: row for row in of_event(rows, "trial")}
    import mlflow

    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert sorted(run.info.run_name for run in runs) == sorted(ends)  # every run once
    for run in runs:
        name = run.info.run_name
        end = ends[name]
        assert (run.info.status, run.data.tags["state"]) == (STATUS[end["state"]], end["state"])
        assert run.data.tags["reason"] == end["reason"]
        expected = curves_of(out, name)
        if not expected:  # it failed before its first rung
            assert (end["state"], run.data.metrics["images_seen"]) == ("failed", 0)
            continue
        first = next(row for row in rows if row["run"] == name and row["event"] in ("rung", "final"))
        assert run.data.params == {key: str(value) for key, value in settings_of(first).items()}
        assert expected["val/miou_teacher"]
        assert run.data.metrics.keys() - {"training_iteration"} == expected.keys()
        for key, curve in expected.items():
            history = client.get_metric_history(run.info.run_id, key)
            assert {point.step: point.value for point in history} == curve, (name, key)
            assert len(history) == len(curve), f"{name}: {key} was told twice"


def check_tensorboard(out: Path) -> None:
    from tensorboard.backend.event_processing import event_accumulator as reader
    from tensorboard.plugins.hparams import metadata

    rows = read_rows(out)
    ends = {row["run"]: row["state"] for row in of_event(rows, "trial")}
    assert sorted(folder.name for folder in (out / "tensorboard").iterdir()) == sorted(ends)
    for name, state in ends.items():
        folder = reader.EventAccumulator(str(out / "tensorboard" / name), size_guidance={reader.SCALARS: 0}).Reload()
        for key, curve in curves_of(out, name).items():
            points = folder.Scalars(f"ray/tune/{key}")
            assert [point.step for point in points] == sorted(curve), (name, key)
            assert [point.value for point in points] == pytest.approx([curve[s] for s in sorted(curve)], rel=1e-6)
        content = folder.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = metadata.parse_session_start_info_plugin_data(content).hparams
        found = {key: getattr(value, value.WhichOneof("kind")) for key, value in hparams.items()}
        first = next((row for row in rows if row["run"] == name and row["event"] in ("rung", "final")), None)
        assert found.items() >= {**(settings_of(first) if first else {}), "state": state}.items()


def check_wandb(out: Path) -> None:
    """What W&B keeps of a search while it is offline."""
    rows = read_rows(out)
    ends = {row["run"]: row["state"] for row in of_event(rows, "trial")}
    files: dict[str, list[Path]] = {}
    for file in sorted((out / "wandb").glob("*run-*/*.wandb")):  # one more for the test score of a winner
        files.setdefault(file.stem.split("-", 2)[2], []).append(file)
    assert sorted(files) == sorted(ends)
    for name, state in ends.items():
        settings: dict[str, Any] = {}
        curves: Curves = {}
        for record in (record for file in files[name] for record in wandb_records(file)):
            for change in [*record.run.config.update, *record.config.update]:
                settings[change.key or "/".join(change.nested_key)] = json.loads(change.value_json)
            point = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for key, value in point.items():
                curves.setdefault(key, {})[int(point["_step"])] = value
        expected = curves_of(out, name)
        assert {key: curves[key] for key in expected} == expected, name
        first = next((row for row in rows if row["run"] == name and row["event"] in ("rung", "final")), None)
        assert settings.items() >= {**(settings_of(first) if first else {}), "experiment_tag": state}.items()


def wandb_records(path: Path) -> Iterator[Any]:
    """W&B's file: a head of 7 bytes, then blocks of 32 KiB of pieces: checksum (4), length (2), kind (1), body."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole, place = whole + data[place + 7 : place + 7 + size], place + 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield Record.FromString(whole)
            whole = b""


if __name__ == "__main__":
    search(Path(sys.argv[1]), yaml.safe_load(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "patient")
