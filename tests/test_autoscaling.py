"""A search makes nodes appear and lets them go; what a lost node did goes on elsewhere; Ray's autoscaler, for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SOURCE = Path(__file__).resolve().parent.parent


def grow(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.autoscaling", *options], cwd=SOURCE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["exit_code"] == 0 and len(found["trials"]) == 6
    assert set(found["trials"].values()) <= {"complete", "pruned"}
    return found


def test_nodes_come_for_a_search_and_leave_after_it() -> None:
    nodes = [change["nodes"] for change in grow()["nodes"]]
    assert nodes[0] == [] == nodes[-1] and max(map(len, nodes)) == 2


def test_a_node_that_is_taken_away_is_replaced_and_its_trial_goes_on() -> None:
    found = grow("--preempt")
    lost = found["preempted"]["node"]
    after = [change["nodes"] for change in found["nodes"] if change["second"] > found["preempted"]["second"] + 20]
    assert not any(lost in nodes for nodes in after) and len(found["retried"]) == 1
    assert max(int(node) for change in found["nodes"] for node in change["nodes"]) > 2, "a third node came"
