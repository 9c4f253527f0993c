"""Contract of `python -m cid_ray.scale` on real Ray with real training: records, resuming after a
kill, more counts and repeats, wrong input. Reference: the same training by `cid_ray.train`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import cid_ray
from benchmarks.harness.tiny_run import TINY
from cid_ray import report, scale
from cid_ray.config import InputError, build_config
from cid_ray.results.ladder import SCORE
from cid_ray.results.records import of_event, read_records
from tests.helpers.drivers import driver, wait_while_running

COUNTS = "scale.ratios=[6,12,24]"


def config_file(folder: Path, table: Path, **changes: Any) -> Path:
    config = build_config(TINY, {"data.table": str(table), **changes})
    path = folder / "ladder.yaml"
    path.write_text(config.to_yaml())
    return path


@pytest.fixture(scope="module")
def ladder(ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a label ladder of three counts and two repeats. Read-only."""
    folder = tmp_path_factory.mktemp("ladder")
    path = config_file(folder, small_demo)
    options = ["--set", COUNTS, "--set", "scale.repeats=2", "--out", str(folder / "run")]
    assert scale.main(["labels", "--config", str(path), *options]) == 0
    return folder / "run"


@pytest.mark.ray
def test_ladder_has_a_record_of_each_count_and_a_forecast(ladder: Path) -> None:
    records = read_records(ladder)
    rungs = of_event(records, "ladder")
    assert sorted(rung["count"] for rung in rungs) == [6, 12, 24]
    finals = of_event(records, "final")
    for rung in rungs:
        scores = [f[SCORE] for f in finals if f["label_count"] == rung["count"]]
        assert sorted(rung["samples"]) == sorted(scores)
        assert len(scores) == 2
    (forecast,) = of_event(records, "forecast")
    assert forecast["count"] == 48
    assert forecast["low"] <= forecast["value"] <= forecast["high"]
    assert (ladder / "report" / "index.html").stat().st_size > 0
    assert not any((ladder / "checkpoints").rglob("*.pt"))


@pytest.mark.ray
def test_training_of_a_ladder_equals_that_of_train(
    ladder: Path, small_demo: Path, tmp_path: Path
) -> None:
    (own,) = (r for r in of_event(read_records(ladder), "final") if r["run"] == "labels-12-cid-1")
    config = build_config(
        TINY,
        {
            "data.table": str(small_demo),
            "data.ratio": "12",
            "data.draw": 1,
            "train.seed": 1,
            "train.num_sample_images": 0,
        },
    )
    *_, final = cid_ray.train(config, tmp_path, cpus=1)
    assert own[SCORE] == final[SCORE]
    assert own["fingerprint"] == final["fingerprint"]


@pytest.mark.ray
def test_report_rebuilds_the_page_from_records(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(ladder), "--out", str(tmp_path)]) == 0
    assert "48 labels are expected at" in capsys.readouterr().out
    original = (ladder / "report" / "index.html").read_text()
    assert (tmp_path / "index.html").read_text() == original


@pytest.mark.ray
def test_resume_trains_only_what_is_missing(ladder: Path, small_demo: Path) -> None:
    before = {r["run"]: r for r in of_event(read_records(ladder), "final")}
    more = ["--set", "scale.ratios=[6,12,24,32]"]
    assert scale.main(["labels", "--resume", str(ladder), *more]) == 0
    after = {r["run"]: r for r in of_event(read_records(ladder), "final")}
    assert set(after) - set(before) == {"labels-32-cid-0", "labels-32-cid-1"}
    assert all(after[run] == before[run] for run in before)
    present = {r["count"]: r["measured"] for r in of_event(read_records(ladder), "forecast")}
    assert present.keys() == {32, 64}, "the forecasts of three counts are still there"
    assert present[32] is not None and present[64] is None


@pytest.mark.ray
def test_other_ladder_in_the_same_folder_is_refused(ladder: Path) -> None:
    with pytest.raises(InputError, match="not the folder of a ladder 'pool'"):
        scale.main(["pool", "--resume", str(ladder)])


@pytest.mark.ray
def test_changed_training_in_the_same_folder_is_refused(ladder: Path) -> None:
    with pytest.raises(InputError, match=r"train\.steps"):
        scale.main(["labels", "--resume", str(ladder), "--set", "train.steps=99"])


@pytest.mark.process
def test_killed_training_is_tried_again_and_killed_ladder_resumes(
    small_demo: Path, tmp_path: Path
) -> None:
    """kill -9 of a training's process, then of the command; then the same ladder is finished."""
    steps = {"train.steps": 120, "train.rungs": [0.1, 0.5, 1.0]}
    path = config_file(tmp_path, small_demo, **steps)
    out = tmp_path / "run"
    sets = ["--set", "scale.ratios=[12]", "--set", "scale.repeats=1"]
    command = ["cid_ray.scale", "labels", "--config", str(path), *sets, "--out", str(out)]
    with driver(command, "local") as process:

        def events() -> list[str]:
            return [record["event"] for record in read_records(out)]

        wait_while_running(process, lambda: "rung" in events())
        for child in psutil.Process(process.pid).children(recursive=True):
            if "stream_records" in " ".join(child.cmdline()):
                os.kill(child.pid, signal.SIGKILL)
        wait_while_running(process, lambda: "retry" in events())
        process.kill()
    assert "final" not in [record["event"] for record in read_records(out)]
    assert scale.main(["labels", "--resume", str(out)]) == 0
    records = read_records(out)
    (retry,) = of_event(records, "retry")
    assert "its process died" in retry["reason"]
    (final,) = of_event(records, "final")
    assert final["step"] == 120


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "counts", "said"),
    [
        ("batch", "scale.batch_sizes=[2,4]", "mIoU on val"),
        ("model", "scale.encoders=[test_efficientnet,test_byobnet]", "both faster and better"),
        ("concurrency", "scale.concurrent=[1,2]", "set search.cpus_per_trial="),
    ],
)
def test_ladder_of_another_kind_ends_in_its_sentence_and_page(
    ray_cluster: str, small_demo: Path, tmp_path: Path, kind: str, counts: str, said: str
) -> None:
    path = config_file(tmp_path, small_demo)
    sets = ["--set", counts, "--set", "scale.repeats=1"]
    out = tmp_path / "run"
    assert scale.main([kind, "--config", str(path), *sets, "--out", str(out)]) == 0
    assert len(of_event(read_records(out), "ladder")) == 2
    assert said in (out / "report" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_worker_ladder_has_the_parts_of_a_step(
    ray_cluster: str, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config_file(tmp_path, small_demo)
    monkeypatch.chdir(tmp_path)
    out = Path("run")  # workers have another working folder
    sets = [
        f"--set=scale.{key}={value}"
        for key, value in {"workers": [1, 2], "timed_steps": 4, "repeats": 1}.items()
    ]
    options = ["--out", str(out), "--machine", "g5.xlarge", "--profile"]
    assert scale.main(["workers", "--config", str(path), *sets, *options]) == 0
    one, two = of_event(read_records(out), "ladder")
    for rung in (one, two):
        measured = rung["measured"]
        assert len(rung["samples"]) == 4
        parts = measured["compute"] + measured["collectives"] + measured["data"]
        assert parts == pytest.approx(measured["step"], rel=1e-6)
        assert measured["images_per_s"] == pytest.approx(8 / measured["step"])
        assert measured["usd_per_worker_hour"] > 0
    assert one["measured"]["collectives"] == 0
    assert two["measured"]["collectives"] > 0
    assert (out / "timings" / "workers-2-0.trace.json").stat().st_size > 0
    page = (out / "report" / "index.html").read_text()
    assert "a step on 4 workers is expected to take" in page
    assert yaml.safe_load((out / "config.yaml").read_text())["scale"]["workers"] == [1, 2]


def test_wrong_ladders_are_refused_before_ray_starts(small_demo: Path, tmp_path: Path) -> None:
    path = str(config_file(tmp_path, small_demo))
    for arguments, message in (
        (["labels", "--set", "scale.ratios=[999]"], "999 labeled images"),
        (["labels", "--set", "scale.ratios=[12,12.0]"], "are both 12 labels"),
        (["labels", "--set", "scale.ratios=[1/4,12]"], "are both 12 labels"),
        (["pool", "--set", "method=supervised"], "method is supervised, which uses no"),
        (["workers", "--set", "scale.workers=[64]"], "data.batch_size is 4"),
        (["workers", "--machine", "abacus"], "--machine abacus is not in the price list"),
        (["stairs"], "stairs"),
    ):
        out = str(tmp_path / "out")
        with pytest.raises(InputError, match=message):
            scale.main([arguments[0], "--config", path, "--out", out, *arguments[1:]])
    assert not (tmp_path / "out" / "records.jsonl").exists()
