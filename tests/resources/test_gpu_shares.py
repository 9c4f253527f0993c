"""Law: trials that ask for half a GPU share one, and no more of them run than fit.

Ray's own accounting, on a cluster that claims to have one GPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cid_ray.results.records import of_event, read_records
from tests.helpers.tiny_run import TINY

SEARCH = {
    "ratios": ["1/4"],
    "trials": 3,
    "baselines": ["supervised"],
    "gpus_per_trial": 0.5,
    "cpus_per_trial": 0.5,
    "space": {"loss.relation_weight": {"float": [0.01, 1.0]}},
}
TUNE_ON_ONE_GPU = """
import ray
ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=True)
from cid_ray.cli.parser import run_command
from cid_ray.tune import main
run_command(main)
"""


def search(config: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TUNE_ON_ONE_GPU, "--config", str(config), "--out", str(out)]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=280, check=False
    )


def most_concurrent(lines: list[str]) -> int:
    """The largest number of trials that ran at the same time, from the console's lines."""
    running = most = 0
    for line in lines:
        running += ": started" in line
        running -= any(f": {state}" in line for state in ("complete", "pruned", "failed"))
        most = max(most, running)
    return most


@pytest.mark.ray
@pytest.mark.slow
def test_half_gpu_trials_two_run_concurrently_on_one_gpu(small_demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpu.yaml"
    out = tmp_path / "run"
    data = {**TINY["data"], "table": str(small_demo)}
    path.write_text(yaml.safe_dump({**TINY, "data": data, "search": SEARCH}))
    done = search(path, out)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 concurrent trials, each 0.5 CPU + 0.5 GPU" in done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("1_4-")]
    assert most_concurrent(lines) == 2
    trials = of_event(read_records(out), "trial")
    assert sum(record["state"] == "complete" for record in trials) >= 2
    refused = search(path, tmp_path / "other", "--set", "search.gpus_per_trial=1.5")
    assert refused.returncode == 2 and "1.5 GPU" in refused.stderr + refused.stdout
