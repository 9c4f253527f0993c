"""A worker killed or stopped, a node lost: training on two nodes goes on by itself and ends with the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import FAULTS, HANG_SECONDS


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
def test_training_goes_on_by_itself_and_ends_the_same(fault: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults", fault, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["recovered"] and found["struck"] == (fault != "none")
    if fault == "node lost, elastic":
        assert {1, 2} == set(found["workers"]) and found["workers"][-1] == 2, "it shrinks, and grows again"
    else:
        assert found["equal"] and set(found["workers"]) == {2}
    if fault == "worker stopped":
        assert found["seconds_lost"] > HANG_SECONDS / 2, "nobody waited for it: was it stopped?"
