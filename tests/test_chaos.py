"""Law: SIGKILL to drivers, trials and clusters at random moments loses no trial, runs none twice,
and changes no suggestion and no pruning decision. Reference: the same search without Ray and kills.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.chaos import (
    CLEAN,
    account,
    chaos_config,
    outcome,
    reopened,
    run_with_kills,
    uninterrupted,
)

pytestmark = pytest.mark.ray
KILLS = 4  # `make chaos` makes many more


def test_search_of_sequential_trials_after_kills_has_same_trials_and_decisions(
    ray_cluster: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    env = {"RAY_ADDRESS": ray_cluster}
    killed = run_with_kills(
        run, KILLS, seed=0, max_concurrent=1, env=env, kinds=("driver", "trial")
    )
    assert killed.total() == KILLS
    cost = account(run, 1)
    assert cost.pop("segments done twice") <= KILLS  # at most the segment that each kill hit
    assert cost == CLEAN
    reference = outcome(uninterrupted(tmp_path / "reference", chaos_config(1)).store)
    assert outcome(reopened(run, 1).store) == reference
    assert {state for state, _, _ in reference.values()} == {"PRUNED", "COMPLETE"}


@pytest.mark.slow
def test_search_of_concurrent_trials_after_lost_clusters_loses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    kinds = ("driver", "trial", "trial", "cluster")
    killed = run_with_kills(run, 10, seed=1, max_concurrent=2, env={}, kinds=kinds)
    cost = account(run, 2)
    assert cost.pop("segments done twice") <= 2 * killed.total()
    assert cost == CLEAN
