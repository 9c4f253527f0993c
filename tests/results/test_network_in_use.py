"""The report says whose scores it shows, and whether the other network was better on val."""

from __future__ import annotations

import pytest

from cid_ray.results.next_steps import next_commands
from cid_ray.results.records import Record
from cid_ray.results.summary import RatioSummary
from cid_ray.results.verdict import network_in_use


def summary_of(teacher: float | None, student: float | None, metric: str) -> RatioSummary:
    summary = RatioSummary("8", "8", 8, metric)
    final: Record = {"val/miou_teacher": teacher, "val/miou": student, "run": "cid-0"}
    other = {"val/miou_teacher": 1.0, "val/miou": 2.0, "run": "supervised-0"}
    summary.chosen = {"cid": final, "supervised": other}
    return summary


def test_network_of_the_scores_is_named_with_both_scores_of_cid() -> None:
    text = network_in_use(summary_of(46.2, 45.912, "val/miou_teacher"))
    assert text == (
        "Scored and used is the teacher, as search.metric=val/miou_teacher says: "
        "46.20 on val with CID, its student 45.91."
    )


def test_teacher_behind_its_student_gets_the_remedy() -> None:
    assert "a lower train.ema_span" in network_in_use(summary_of(46.2, 48.0, "val/miou_teacher"))
    assert "ema_span" not in network_in_use(summary_of(46.2, 46.2, "val/miou_teacher"))


def test_metric_of_the_student_names_the_student() -> None:
    text = network_in_use(summary_of(46.2, 48.0, "val/miou"))
    assert text.startswith("Scored and used is the student, as search.metric=val/miou says: 48.00")
    assert "ema_span" not in text


def test_next_commands_use_the_network_of_the_scores() -> None:
    """The commands take the teacher by default: a score of the student would not be found again."""
    student = next_commands("runs/x", [summary_of(46.2, 48.0, "val/miou")])
    teacher = next_commands("runs/x", [summary_of(46.2, 48.0, "val/miou_teacher")])
    have_the_option = ("evaluate", "predict", "label_next", "export")
    expected = [
        command + " --network student" * (command.split()[2].split(".")[1] in have_the_option)
        for command in teacher
    ]
    assert student == expected and sum("--network student" in one for one in student) == 4
    assert not any("--network" in command for command in teacher)


@pytest.mark.parametrize(("teacher", "student"), [(None, 1.0), (1.0, None)])
def test_nothing_is_said_without_both_scores(teacher: float | None, student: float | None) -> None:
    assert network_in_use(summary_of(teacher, student, "val/miou_teacher")) == ""


def test_nothing_is_said_before_a_run_is_chosen() -> None:
    assert network_in_use(RatioSummary("8", "8", 8, "val/miou")) == ""
