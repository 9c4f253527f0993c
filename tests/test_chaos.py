"""kill -9 of drivers, trials and clusters at random moments: nothing lost, nothing twice, the same decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import CLEAN, account, outcome, storm, storm_config, uninterrupted, weathered

pytestmark = pytest.mark.ray
KILLS = 4  # of the test that CI runs; `make chaos` makes many more


def test_one_at_a_time_a_storm_changes_no_suggestion_and_no_decision(ray_cluster: str, tmp_path: Path) -> None:
    killed = storm(tmp_path / "run", KILLS, 0, 1, {"RAY_ADDRESS": ray_cluster}, ("driver", "trial"))
    assert killed.total() == KILLS
    found = account(tmp_path / "run", 1)
    assert found.pop("stretches worked twice") <= KILLS  # a kill costs at most the stretch it hit
    assert found == CLEAN
    (tmp_path / "calm").mkdir()
    calm = outcome(uninterrupted(tmp_path / "calm", storm_config(1)))
    assert outcome(weathered(tmp_path / "run", 1)) == calm
    assert {"PRUNED", "COMPLETE"} == {state for state, _, _ in calm.values()}


@pytest.mark.slow
def test_a_storm_over_two_at_a_time_with_clusters_lost(tmp_path: Path) -> None:
    killed = storm(tmp_path / "run", 10, 1, 2, {}, ("driver", "trial", "trial", "cluster"))
    found = account(tmp_path / "run", 2)
    assert found.pop("stretches worked twice") <= 2 * killed.total()
    assert found == CLEAN
