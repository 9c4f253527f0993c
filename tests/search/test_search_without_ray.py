"""Law of the Python API: a search trains, scores and reports where Ray cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cid_ray.results.records import of_event, read_records

NOTEBOOK = """
import sys
for name in ("ray", "mlflow", "wandb"):
    sys.modules[name] = None  # an import of it fails
from pathlib import Path
import cid_ray
from cid_ray.search.controller import Decision
from cid_ray.storage.run_dir import RunDir
from tests.helpers.local_search import tiny_search

out = Path(sys.argv[2])
changes = {"search.ratios": ["1/8"], "search.trials": 2, "train.steps": 4}
config = tiny_search(Path(sys.argv[1]))
config = cid_ray.build_config(config.model_dump(mode="json"), changes)
with cid_ray.Search.open(config, RunDir(out)) as search:
    while (trial := search.next_trial()) is not None:
        score_test = trial.score_test
        records = cid_ray.train(trial.config, out, trial.name, score_test=score_test, cpus=1)
        for record in records:
            if search.report(record) is Decision.STOP:
                break
    search.finalize()
    assert not search.rules.reason, search.rules.reason
"""


@pytest.mark.process
@pytest.mark.timeout(600)
def test_search_without_ray_trains_scores_winners_and_reports(
    small_demo: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", NOTEBOOK, str(small_demo), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    records = read_records(tmp_path / "run")
    assert len(of_event(records, "trial")) == 1 + 2
    scored = [record["method"] for record in of_event(records, "final") if "test/miou" in record]
    assert sorted(scored) == ["cid", "supervised"]
    assert [record["method"] for record in of_event(records, "search")] == ["supervised", "cid"]
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 0
