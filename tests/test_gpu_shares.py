"""Several trials on one GPU by fractions: Ray's accounting for real, on a cluster that says it has one GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cid_ray.results.record import read_rows
from tests.support import TINY

SEARCH = {
    "ratios": ["1/4"], "trials": 3, "baselines": ["supervised"], "gpus_per_trial": 0.5, "cpus_per_trial": 0.5,
    "space": {"loss.relation_weight": {"float": [0.01, 1.0]}},
}  # fmt: skip
ON_ONE_GPU = """
import ray
ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=True)
from cid_ray import cli, tune
cli.run(tune.main)
"""


def search(config: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ON_ONE_GPU, "--config", str(config), "--out", str(out), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.ray
@pytest.mark.slow
def test_two_trials_share_one_gpu_and_no_more_than_fit(small_demo: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "gpu.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], "table": str(small_demo)}, "search": SEARCH}))
    done = search(path, out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 trials at once, each 0.5 CPU + 0.5 GPU" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("1_4-")]
    running, most = 0, 0
    for line in lines:
        running += ": begun" in line
        running -= any(f": {how}" in line for how in ("complete", "pruned", "failed"))
        most = max(most, running)
    assert most == 2
    assert sum(row["event"] == "trial" and row["state"] == "complete" for row in read_rows(out)) >= 2
    refused = search(path, tmp_path / "other", "--set", "search.gpus_per_trial=1.5")
    assert refused.returncode == 2 and "1.5 GPU" in refused.stderr + refused.stdout
