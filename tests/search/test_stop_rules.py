"""Laws of when a search stops: an interrupt, the time budget, failures of one kind."""

from __future__ import annotations

import time

import pytest

from cid_ray.search.stop_rules import StopRules


def test_should_stop_only_after_interrupt_or_failure() -> None:
    rules = StopRules(max_failed_trials=3)
    assert not rules.should_stop()
    rules.interrupted = True
    assert rules.should_stop()
    assert not rules.reason
    rules = StopRules(max_failed_trials=3)
    rules.fail("the disk is full")
    assert rules.should_stop()


def test_fail_twice_keeps_first_reason() -> None:
    rules = StopRules(max_failed_trials=3)
    rules.fail("the disk is full")
    rules.fail("the folder is gone")
    assert rules.reason == "the disk is full"


def test_should_stop_before_deadline_keeps_time_for_test_scores() -> None:
    rules = StopRules(max_failed_trials=3, deadline=time.monotonic() + 3600)
    assert not rules.should_stop()
    rules.test_seconds = 7200.0
    assert rules.should_stop()
    assert StopRules(max_failed_trials=3, deadline=time.monotonic()).should_stop()


def test_count_failure_reasons_that_differ_in_numbers_are_one_kind() -> None:
    rules = StopRules(max_failed_trials=3)
    for step in (1, 20):
        rules.count_failure(f"FloatingPointError: the loss is nan at step {step}")
    assert not rules.should_stop()
    rules.count_failure("FloatingPointError: the loss is inf at step 3.5e-7")
    assert "3 trials failed in the same way" in rules.reason
    assert "search.max_failed_trials is 3" in rules.reason


def test_count_failure_of_different_kinds_does_not_stop() -> None:
    rules = StopRules(max_failed_trials=2)
    for reason in ("RuntimeError: a", "RuntimeError: b", "ValueError: a"):
        rules.count_failure(reason)
    assert not rules.should_stop()


@pytest.mark.parametrize("value", ["1", "-2.5", "1e+30", "nan", "inf"])
def test_count_failure_any_number_is_ignored(value: str) -> None:
    rules = StopRules(max_failed_trials=2)
    rules.count_failure("the weight is 0")
    rules.count_failure(f"the weight is {value}")
    assert rules.should_stop()
