"""Law: a search grows and shrinks a cluster, and a lost node costs no trial. Reference: Ray's own
autoscaler with a raylet for each node.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[1]


def autoscaled_search(*options: str) -> dict[str, Any]:
    """Run a search of six trials on a growing cluster: what happened to nodes and trials."""
    command = [sys.executable, "-m", "benchmarks.harness.autoscaling", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["exit_code"] == 0
    assert len(result["trials"]) == 6
    assert set(result["trials"].values()) <= {"complete", "pruned"}
    return result


def test_search_on_empty_cluster_adds_nodes_and_releases_them() -> None:
    nodes = [change["nodes"] for change in autoscaled_search()["nodes"]]
    assert nodes[0] == []
    assert nodes[-1] == []
    assert max(map(len, nodes)) == 2


def test_killed_node_is_replaced_and_its_trial_retried() -> None:
    result = autoscaled_search("--preempt")
    lost = result["preempted"]["node"]
    later = [c["nodes"] for c in result["nodes"] if c["second"] > result["preempted"]["second"]]
    listed = [lost in nodes for nodes in later]
    # Ray notices the loss after some seconds. From then on the node is gone.
    assert listed == sorted(listed, reverse=True)
    assert any(nodes and lost not in nodes for nodes in later)
    assert len(result["retried"]) == 1
    numbers = [int(node) for change in result["nodes"] for node in change["nodes"]]
    assert max(numbers) > 2, "no third node was started"
