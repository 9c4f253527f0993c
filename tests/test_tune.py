"""Contract of `python -m cid_ray.tune` on real Ray with real training: the run folder, resuming
after SIGKILL, the time budget, failed trials, placement. Reference: studies and records agree.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cid_ray import tune
from cid_ray.config import InputError
from cid_ray.results.records import of_event, read_records
from cid_ray.results.summary import METHOD_NAMES
from cid_ray.search import stop_rules
from tests.helpers.drivers import driver, n_finished, wait_while_running
from tests.helpers.experiment_logger_checks import check_tensorboard
from tests.helpers.small_search import METHODS, space_file, states

pytestmark = pytest.mark.ray
RESUME = "python -m cid_ray.tune --resume"
RUN_FILES = (
    "config.yaml",
    "records.jsonl",
    "study.journal",
    "log.txt",
    "report/index.html",
    "report/report.md",
)


@pytest.fixture(scope="module")
def finished(ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished search. Read-only, but for resuming it."""
    folder = tmp_path_factory.mktemp("search")
    out = folder / "run"
    path = space_file(folder, small_demo, callbacks={"tensorboard": {}})
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    return out


def test_run_folder_after_search_has_every_file(finished: Path) -> None:
    for name in RUN_FILES:
        assert (finished / name).stat().st_size > 0
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["search"]["trials"] == 3


def test_studies_after_search_have_every_trial_finished_once(finished: Path) -> None:
    found = states(finished)
    assert set(found) == {f"{ratio} {method}" for ratio in ("1/8", "1/4") for method in METHODS}
    for name, counts in found.items():
        assert set(counts) <= {"COMPLETE", "PRUNED"}
        assert counts.total() == (3 if name.endswith("cid") else 1)


def test_records_after_search_hold_every_value_of_the_studies(finished: Path) -> None:
    curves: dict[str, dict[int, float]] = {}
    for record in of_event(read_records(finished), "rung"):
        curve = curves.setdefault(record["run"], {})
        curve[record["images_seen"]] = record["val/miou_teacher"]
    storage = JournalStorage(JournalFileBackend(str(finished / "study.journal")))
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            assert curves[trial.user_attrs["run"]] == pytest.approx(trial.intermediate_values)
            if trial.state.name == "COMPLETE":
                assert trial.value == pytest.approx(list(trial.intermediate_values.values())[-1])


def test_winners_and_baselines_after_search_are_tested_and_keep_checkpoints(
    finished: Path,
) -> None:
    records = read_records(finished)
    finals = {r["run"]: r for r in of_event(records, "final")}
    best = {r["ratio"]: r["best"] for r in of_event(records, "search") if r["method"] == "cid"}
    assert set(best) == {"1/8", "1/4"}
    tested = {run for run, record in finals.items() if "test/miou" in record}
    baselines = {run for run, record in finals.items() if record["method"] != "cid"}
    assert tested == set(best.values()) | baselines
    kept = {path.name for path in (finished / "checkpoints").iterdir()}
    assert kept == tested
    for run in tested:
        assert finals[run]["test_split"] == "test"
        assert len(finals[run]["samples"]) == 2
        assert all((finished / s["prediction"]).is_file() for s in finals[run]["samples"])
    for run in best.values():
        assert set(finals[run]["params"]) == {"loss.relation_kind", "loss.relation_weight"}


def test_winner_of_each_ratio_is_best_on_val_at_last_step(finished: Path) -> None:
    records = read_records(finished)
    for search in of_event(records, "search"):
        if search["method"] != "cid":
            continue
        scores = {
            record["run"]: record["val/miou_teacher"]
            for record in of_event(records, "final")
            if record["method"] == "cid" and record["ratio"] == search["ratio"]
        }
        assert scores[search["best"]] == max(scores.values())


def test_report_page_after_search_shows_table_curves_and_images(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert page.count("<svg") >= 3
    # At each ratio two images with label, four predictions and CID's confidence, and the two worst.
    assert page.count("data:image/png;base64,") == 2 * (2 * 7 + 2 * 4)
    assert "supervised, pool through batch norm" in page
    assert "All but CID are baselines" in page


def test_tensorboard_files_after_search_agree_with_records(finished: Path) -> None:
    check_tensorboard(finished)


def test_resume_of_finished_search_runs_no_trial(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(finished)
    assert tune.main(["--resume", str(finished)]) == 0
    assert states(finished) == before
    assert ": started" not in capsys.readouterr().out


def test_trial_that_raises_fails_alone_with_its_reason(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    """A weight that overflows makes the loss infinite: a real failure, not an injected one."""
    path = space_file(
        tmp_path,
        small_demo,
        space={"loss.style_weight": {"choice": [0.1, 1e38]}},
        points_to_evaluate=[{"loss.style_weight": 1e38}, {"loss.style_weight": 0.1}],
        trials=2,
        ratios=["1/4"],
        pruner={"name": "NopPruner"},
    )
    out = tmp_path / "run"
    command = ["--config", str(path), "--out", str(out), "--set", "loss.style_ramp=0"]
    assert tune.main(command) == 0
    assert states(out)["1/4 cid"] == {"FAIL": 1, "COMPLETE": 1}
    trials = of_event(read_records(out), "trial")
    reasons = [trial["reason"] for trial in trials if trial["state"] == "failed"]
    assert len(reasons) == 1 and "FloatingPointError" in reasons[0]
    assert "FloatingPointError" in (out / "report" / "index.html").read_text()


def test_search_with_spent_budget_reports_and_resume_completes_it(
    ray_cluster: str, small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the stop rules passes the deadline when four trials have finished. Thus the
    test does not depend on the speed of the machine.
    """
    path = space_file(tmp_path, small_demo, trials=5, ratios=["1/4"])
    out = tmp_path / "run"

    def clock() -> float:
        return time.monotonic() + (3600 if n_finished(out) >= 4 else 0)

    with monkeypatch.context() as patched:
        patched.setattr(stop_rules, "time", SimpleNamespace(monotonic=clock))
        command = ["--config", str(path), "--out", str(out), "--budget", "3600"]
        assert tune.main(command) == 0
    finished = of_event(read_records(out), "trial")
    assert 4 <= len(finished) <= 5, "the other running trial may have finished too"
    assert sum(counts.total() for counts in states(out).values()) < 8
    assert f"the time budget is spent; resume with: {RESUME} {out}" in (out / "log.txt").read_text()
    page = (out / "report" / "index.html").read_text()
    assert all(METHOD_NAMES[trial["method"]] in page for trial in finished)

    assert tune.main(["--resume", str(out)]) == 0
    found = states(out)
    assert {name: counts.total() for name, counts in found.items()} == {
        "1/4 supervised": 1,
        "1/4 pool_bn": 1,
        "1/4 mean_teacher": 1,
        "1/4 cid": 5,
    }
    assert all(set(counts) <= {"COMPLETE", "PRUNED"} for counts in found.values())


def test_budget_that_is_too_short_for_a_trial_ends_the_search_in_order(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    """All of it is reserved for the report, so no trial may start."""
    path = space_file(tmp_path, small_demo, trials=1, ratios=["1/4"], baselines=[])
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out), "--budget", "1"]) == 0
    assert not of_event(read_records(out), "rung")
    assert f"the time budget is spent; resume with: {RESUME} {out}" in (out / "log.txt").read_text()
    assert (out / "report" / "index.html").is_file()


def test_trial_that_can_never_be_placed_is_refused_before_the_run_folder_exists(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, cpus_per_trial=64)
    with pytest.raises(InputError, match=r"64 CPU.*2 CPU.*cpus_per_trial"):
        tune.main(["--config", str(path), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_search_with_more_concurrent_trials_than_cpus_completes(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(
        tmp_path, small_demo, max_concurrent_trials=50, trials=2, ratios=["1/4"], baselines=[]
    )
    out = tmp_path / "run"
    assert tune.main(["--config", str(path), "--out", str(out)]) == 0
    assert states(out)["1/4 cid"].total() == 2


def test_search_after_sigkill_resumes_and_loses_and_repeats_nothing(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=4, ratios=["1/4"])
    out = tmp_path / "run"
    command = ["cid_ray.tune", "--config", str(path), "--out", str(out)]
    with driver(command, ray_cluster) as process:
        wait_while_running(process, lambda: n_finished(out) >= 4)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = {r["run"]: r["state"] for r in of_event(read_records(out), "trial")}
    assert len(before) >= 4
    assert tune.main(["--resume", str(out)]) == 0
    after = {r["run"]: r["state"] for r in of_event(read_records(out), "trial")}
    assert before.items() <= after.items()
    assert len(after) == 3 + 4
    found = states(out)
    assert sum(counts.total() for counts in found.values()) == 7
    assert all(set(counts) <= {"COMPLETE", "PRUNED"} for counts in found.values())
    # read_records merges equal records, so duplicates show in the file only.
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    ends = Counter(record["run"] for record in of_event(lines, "trial"))
    assert set(ends.values()) == {1}


def test_search_after_ctrl_c_writes_the_report_and_says_how_to_resume(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=500, ratios=["1/4"])
    out = tmp_path / "run"
    command = ["cid_ray.tune", "--config", str(path), "--out", str(out)]
    with driver(command, ray_cluster) as process:
        wait_while_running(process, lambda: n_finished(out) >= 2)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=200)
    assert process.returncode == 130
    assert f"--resume {out}" in shown
    assert (out / "report" / "index.html").is_file()


@pytest.mark.slow
def test_trials_of_two_workers_are_searched_and_pruned_like_others(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(tmp_path, small_demo, trials=2, ratios=["1/4"], baselines=["supervised"])
    out = tmp_path / "run"
    command = ["--config", str(path), "--out", str(out), "--set", "distributed.num_workers=2"]
    assert tune.main(command) == 0
    found = states(out)
    assert found["1/4 supervised"] == {"COMPLETE": 1}
    assert found["1/4 cid"].total() == 2
    assert set(found["1/4 cid"]) <= {"COMPLETE", "PRUNED"}
    finals = of_event(read_records(out), "final")
    assert all(final["workers"] == 2 for final in finals)
    assert all("test/miou" in final for final in finals if final["method"] == "supervised")
