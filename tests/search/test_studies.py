"""Laws of the studies: fair turns, baselines first, Optuna's own pruning, nothing lost or repeated after a stop.

Trials are simulated by rows of made-up learning curves; the studies, the journal and the pruner are the real ones.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from cid_ray.config import Config, override
from cid_ray.home import Home
from cid_ray.search import findings
from cid_ray.search.arms import Assignment
from cid_ray.search.space import Space
from cid_ray.search.studies import Studies
from tests.support import TINY

RATIOS = ("1/16", "1/8")


def config(trials: int = 9, **changes: Any) -> Config:
    search = {
        "ratios": list(RATIOS),
        "trials": trials,
        "space": {"loss.relation_weight": {"float": [0.0, 1.0]}},
        "sampler": {"name": "RandomSampler"},
        "pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 3}},
    }
    return override({**TINY, "search": search}, {"train.steps": 90, "train.rungs": [1 / 9, 1 / 3, 1.0], **changes})


def studies(folder: Path, cfg: Config) -> Studies:
    return Studies(Home(folder), cfg, Space.parse(cfg.search.space, cfg.search.start))


def row(assignment: Assignment, step: int) -> dict[str, Any]:
    """A learning curve that ends at 50 plus the weight."""
    value = 50 * step / 90 + assignment.config.loss.relation_weight
    return {"step": step, "steps": 90, "images_seen": step * 8, "val/miou_teacher": value}


def play(book: Studies, assignment: Assignment) -> str:
    for step in assignment.config.train.rung_steps:
        if book.rung(assignment.name, row(assignment, step)):
            return "pruned"
    book.complete(assignment.name, row(assignment, 90))
    return "complete"


def play_all(book: Studies) -> list[Assignment]:
    done = []
    while (assignment := book.next()) is not None:
        play(book, assignment)
        done.append(assignment)
    return done


def test_baselines_come_first_and_ratios_take_turns(tmp_path: Path) -> None:
    done = play_all(studies(tmp_path, config(trials=4)))
    methods = [a.arm.method for a in done]
    assert sorted(methods[:6]) == sorted(["supervised", "pool_bn", "mean_teacher"] * 2)
    assert methods[6:] == ["cid"] * 8
    begun = Counter[str]()
    for assignment in done:
        begun[assignment.arm.ratio] += 1
        assert abs(begun[RATIOS[0]] - begun[RATIOS[1]]) <= 1


def test_each_ratio_and_method_has_its_own_study_in_one_journal(tmp_path: Path) -> None:
    play_all(studies(tmp_path, config(trials=3)))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    )
    names = {s.study_name for s in optuna.get_all_study_summaries(storage)}
    methods = ("supervised", "pool_bn", "mean_teacher", "cid")
    assert names == {f"{ratio} {method}" for ratio in RATIOS for method in methods}


def test_a_baseline_is_its_method_with_the_base_settings(tmp_path: Path) -> None:
    cfg = config(trials=1)
    for assignment in play_all(studies(tmp_path, cfg)):
        assert assignment.config.method == assignment.arm.method
        assert assignment.config.data.ratio == assignment.arm.ratio
        if assignment.arm.method != "cid":
            assert assignment.config.loss == cfg.loss


def test_decisions_are_those_of_optunas_own_pruner(tmp_path: Path) -> None:
    """Reference: the same curves through a plain Optuna study with the same pruner."""
    book = studies(tmp_path, config(trials=12))
    reference = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=80, reduction_factor=3)
    )
    seen = set()
    while (assignment := book.next()) is not None:
        if assignment.arm.method != "cid" or assignment.arm.ratio != "1/8":
            play(book, assignment)
            continue
        trial, expected = reference.ask(), "complete"
        for step in assignment.config.train.rung_steps:
            fake = row(assignment, step)
            trial.report(fake["val/miou_teacher"], fake["images_seen"])
            if step < 90 and trial.should_prune():
                expected = "pruned"
                break
        reference.tell(
            trial,
            None if expected == "pruned" else 1.0,
            state=None if expected == "complete" else optuna.trial.TrialState.PRUNED,
        )
        assert play(book, assignment) == expected
        seen.add(expected)
    assert seen == {"pruned", "complete"}


def test_the_first_trial_of_a_study_is_not_pruned(tmp_path: Path) -> None:
    book = studies(tmp_path, config())
    first = {}
    while (assignment := book.next()) is not None:
        first.setdefault(assignment.arm, play(book, assignment))
    assert set(first.values()) == {"complete"}


def test_pruned_trials_are_pruned_with_their_curve(tmp_path: Path) -> None:
    book = studies(tmp_path, config(trials=12))
    play_all(book)
    pruned = [t for s in book.studies.values() for t in s.trials if t.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        assert list(trial.intermediate_values) == [80, 240][: len(trial.intermediate_values)]
        assert trial.intermediate_values


def test_enqueued_starting_points_are_tried_first(tmp_path: Path) -> None:
    cfg = config(trials=2, **{"search.start": [{"loss.relation_weight": 0.25}]})
    first = next(a for a in play_all(studies(tmp_path, cfg)) if a.arm.method == "cid")
    assert first.config.loss.relation_weight == 0.25


@pytest.mark.parametrize("stop_after", [0, 3, 7, 11])
def test_after_a_stop_running_trials_come_back_first_and_nothing_is_repeated(tmp_path: Path, stop_after: int) -> None:
    cfg = config(trials=4)
    book = studies(tmp_path, cfg)
    ended = []
    for _ in range(stop_after):
        assignment = book.next()
        assert assignment is not None
        play(book, assignment)
        ended.append(assignment.name)
    cut = [book.next(), book.next()]  # two trials are running when everything dies
    del book

    again = studies(tmp_path, cfg)
    resumed = [again.next(), again.next()]
    by_name = {a.name: (a.params, a.config) for a in cut if a}
    assert {a.name: (a.params, a.config) for a in resumed if a} == by_name
    for after in resumed:
        assert after is not None
        play(again, after)
    names = ended + [a.name for a in resumed if a] + [a.name for a in play_all(again)]
    assert len(names) == len(set(names)) == 2 * (3 + 4)
    states = Counter(t.state.name for s in again.studies.values() for t in s.trials)
    assert set(states) <= {"COMPLETE", "PRUNED"} and states.total() == 14


def test_a_failed_trial_fails_alone_with_its_reason(tmp_path: Path) -> None:
    book = studies(tmp_path, config(trials=2))
    broken = book.next()
    assert broken is not None
    book.fail(broken.name, "FloatingPointError: the loss is nan")
    play_all(book)
    failed = [t for s in book.studies.values() for t in s.trials if t.state.name == "FAIL"]
    assert [t.user_attrs["failed"] for t in failed] == ["FloatingPointError: the loss is nan"]


def test_importances_need_trials_of_full_length(tmp_path: Path) -> None:
    cfg = config(trials=3, **{"search.pruner": {"name": "NopPruner"}})
    few = studies(tmp_path / "few", cfg) if (tmp_path / "few").mkdir() is None else None
    assert few is not None
    play_all(few)
    arm = next(a for a in few.studies if a.method == "cid")
    assert findings.importances(few.studies[arm]) == {}
    (tmp_path / "many").mkdir()
    many = studies(tmp_path / "many", override(cfg.model_dump(mode="json"), {"search.trials": 12}))
    play_all(many)
    assert set(findings.importances(many.studies[arm])) == {"loss.relation_weight"}
