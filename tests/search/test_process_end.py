"""Law: the error that Tune logs says how the trial's process ended. The errors are Ray's."""

from __future__ import annotations

import logging

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from cid_ray.search.controller import PROCESS_DIED
from cid_ray.search.process_end import ProcessEnd, TrialErrors
from cid_ray.training.preemption import Notice, Preempted

PREEMPTED = Preempted(Notice("2f14789e8e44", 0), 7)


def end_after(error: Exception) -> tuple[ProcessEnd, bool]:
    """How the process ended after Tune has logged an error, and whether the log is shown."""
    errors = TrialErrors()
    info = (type(error), error, None)
    shown = errors.filter(logging.LogRecord("ray.tune", logging.ERROR, "", 0, "died", (), info))
    return errors.take_end(), shown


def test_run_that_ended_before_its_node_was_taken_ended_by_itself() -> None:
    task_error = RayTaskError("step", "traceback", PREEMPTED)
    for error in (task_error, task_error.as_instanceof_cause()):
        end, shown = end_after(error)
        assert end.by_itself and not end.for_memory and not shown
        assert end.reason == ("preempted: node 2f14789e will be taken; step 7 is in the checkpoint")


def test_process_that_its_node_took_along_is_preempted() -> None:
    end, shown = end_after(RayActorError(error_msg="the actor died", preempted=True))
    assert end.reason.startswith("preempted: ") and not end.by_itself and not shown


@pytest.mark.parametrize("error", [RayActorError(error_msg="died"), ValueError("else")])
def test_other_deaths_are_no_preemption(error: Exception) -> None:
    assert end_after(error)[0] == ProcessEnd(PROCESS_DIED)


def test_kill_for_memory_gives_its_figures() -> None:
    text = "Memory on the node was 30.1GB used / 31.0GB limit; memory used=7.50GB"
    end, shown = end_after(OutOfMemoryError(text))
    assert end.for_memory and not shown
    assert "the process had 7.50GB; 30.1GB of the node's 31.0GB were used" in end.reason


def test_an_error_is_of_one_trial() -> None:
    errors = TrialErrors()
    error = OutOfMemoryError("memory")
    info = (type(error), error, None)
    errors.filter(logging.LogRecord("ray.tune", logging.ERROR, "", 0, "died", (), info))
    assert errors.take_end().for_memory
    assert errors.take_end() == ProcessEnd()
