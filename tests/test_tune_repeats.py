"""Contract of `search.repeats` on real Ray with real training: the best runs and the baselines are
repeated in pairs, which gives the noise floor. And of the options that start or change a search.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray import tune
from cid_ray.results.records import of_event, read_records
from tests.helpers.small_search import space_file, states

pytestmark = pytest.mark.ray
BASELINE = "1_4-supervised-000"


@pytest.fixture(scope="module")
def repeated(ray_cluster: str, small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished search with two repeats. Read-only, but for resuming it."""
    folder = tmp_path_factory.mktemp("repeated")
    path = space_file(
        folder, small_demo, trials=3, ratios=["1/4"], baselines=["supervised"], repeats={"n": 2}
    )
    assert tune.main(["--config", str(path), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_candidates_are_repeated_with_equal_seeds_and_label_draws(repeated: Path) -> None:
    records = read_records(repeated)
    finals = of_event(records, "final")
    best = {r["method"]: r["best"] for r in of_event(records, "search")}["cid"]
    repeats = {(r["repeats_of"], r["repeat_index"]): r for r in finals if r["repeats_of"]}
    assert {run for run, _ in repeats} == {best, BASELINE}
    for index in (1, 2):
        of_cid = repeats[best, index]
        of_baseline = repeats[BASELINE, index]
        for name in ("seed", "draw", "split_id"):
            assert of_cid[name] == of_baseline[name]
        assert "test/miou_teacher" in of_cid and "test/miou_teacher" in of_baseline
        assert of_cid["run"] == f"{best}-repeat{index}"
    assert len({record["split_id"] for record in repeats.values()}) == 2
    winner = next(record for record in finals if record["run"] == best)
    of_winner = [record for (run, _), record in repeats.items() if run == best]
    assert all(record["params"] == winner["params"] for record in of_winner)


def test_noise_floor_of_repeats_is_in_records_and_report(repeated: Path) -> None:
    noise = of_event(read_records(repeated), "noise")
    assert {record["split"] for record in noise} == {"val", "test"}
    assert all(record["n"] == 2 and record["floor"] > 0 for record in noise)
    floor = next(record["floor"] for record in noise if record["split"] == "test")
    page = (repeated / "report" / "index.html").read_text()
    assert f"{floor:.2f}" in page and "noise floor" in page


def test_repeats_leave_no_checkpoints(repeated: Path) -> None:
    assert (repeated / "checkpoints" / BASELINE).is_dir()
    assert not list((repeated / "checkpoints").glob("*-repeat*"))


def test_resume_of_finished_search_runs_no_repeat(
    repeated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(repeated)
    assert before[f"1/4 supervised, repeats of {BASELINE}"] == {"COMPLETE": 2}
    assert tune.main(["--resume", str(repeated)]) == 0
    assert states(repeated) == before
    assert ": started" not in capsys.readouterr().out


def test_warm_start_with_second_objective_starts_from_the_best_and_records_pareto(
    ray_cluster: str, repeated: Path, small_demo: Path, tmp_path: Path
) -> None:
    path = space_file(
        tmp_path,
        small_demo,
        trials=2,
        ratios=["1/4"],
        baselines=[],
        second_objective="latency_ms",
        pruner={"name": "NopPruner"},
    )
    out = tmp_path / "run"
    command = ["--config", str(path), "--out", str(out), "--warm-start", str(repeated)]
    assert tune.main(command) == 0
    records = read_records(out)
    finals = of_event(read_records(repeated), "final")
    earlier = [record["params"] for record in finals if record["method"] == "cid"]
    rungs = of_event(records, "rung")
    first = next(record for record in rungs if record["run"] == "1_4-cid-000")
    assert first["params"] in earlier
    [search] = of_event(records, "search")
    assert search["second_objective"] == "latency_ms" and search["pareto"]
    assert all(point["cost"] > 0 for point in search["pareto"])
    assert "Pareto" in (out / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--extend", "3"], "--resume"),
        (["--resume", "RUN", "--extend", "0"], "--extend 0"),
        (["--resume", "RUN", "--warm-start", "RUN"], "new run"),
        (["--warm-start", "nowhere"], "nowhere"),
    ],
    ids=["extend", "extend by 0", "warm start of a resume", "warm start of nothing"],
)
def test_options_that_exclude_each_other_are_refused(
    repeated: Path, options: list[str], message: str
) -> None:
    given = [str(repeated) if option == "RUN" else option for option in options]
    command = [sys.executable, "-m", "cid_ray.tune", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
