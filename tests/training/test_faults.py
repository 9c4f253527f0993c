"""Law: after a worker is killed or stopped or a node is lost, training recovers by itself.

The reference is the same training undisturbed; both are run by benchmarks/harness/faults.py on two
nodes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.faults import FAULTS, HANG_S


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_training_after_fault_recovers_with_equal_weights(fault: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.harness.faults", fault, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.strip().splitlines()[-1])
    assert outcome["recovered"] and outcome["struck"] == (fault != "none")
    workers = outcome["workers"]
    if fault == "node lost, elastic":
        assert set(workers) == {1, 2} and workers[-1] == 2, "it shrinks, and grows again"
    else:
        assert outcome["equal"] and set(workers) == {2}
    if fault == "worker stopped":
        # A stopped worker is replaced only after HANG_S: less would mean that it never hung.
        assert outcome["seconds_lost"] > HANG_S / 2
