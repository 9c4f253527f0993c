"""Laws of remaining time: pace so far times what is left; unknown while nothing is done."""

from __future__ import annotations

import pytest

from cid_ray.results.progress import remaining_seconds, run_remaining_seconds


def test_remaining_seconds_is_pace_times_items_left() -> None:
    assert remaining_seconds(elapsed=60.0, done=3, total=9) == pytest.approx(120.0)


def test_remaining_seconds_before_first_item_is_unknown() -> None:
    assert remaining_seconds(elapsed=60.0, done=0, total=9) is None


def test_remaining_seconds_at_the_end_is_zero() -> None:
    assert remaining_seconds(elapsed=60.0, done=9, total=9) == 0
    assert remaining_seconds(elapsed=60.0, done=10, total=9) == 0  # a resume lowered the total


def test_run_remaining_seconds_is_own_pace_times_steps_left() -> None:
    assert run_remaining_seconds({"seconds": 30.0, "step": 3, "steps": 9}) == pytest.approx(60.0)


def test_run_remaining_seconds_at_step_zero_counts_first_step_as_done() -> None:
    assert run_remaining_seconds({"seconds": 2.0, "step": 0, "steps": 9}) == pytest.approx(18.0)
