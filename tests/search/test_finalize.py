"""Laws of the end of a search: winners are scored on test, losers' checkpoints go, a report comes.

With several workers per trial the tests run one at a time. Training is simulated; Ray is real.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import RATIOS, simulated_config, simulated_record, uninterrupted
from cid_ray.config import Config, build_config
from cid_ray.resources.capacity import Resources
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.analysis import winners
from cid_ray.search.controller import Search
from cid_ray.search.finalize import delete_losing_checkpoints, score_winners
from cid_ray.search.outcome import search_outcome
from tests.helpers.event_recorder import EventRecorder
from tests.helpers.simulated_studies import open_search, run_trials, score_on_test, search_config


def score_and_log(
    log: Path, run_dir: str, cpus: float, payload: dict[str, Any]
) -> Iterator[Record]:
    """A trial that only tests, and writes to a file when it starts and ends."""
    for event in ("starts", "ends"):
        with log.open("a") as file:
            file.write(f"{payload['name']} {event}\n")
        time.sleep(0.5)
    config = Config.model_validate_json(payload["config"])
    yield {"event": "final", **simulated_record(config, payload["name"], config.train.steps)}


@pytest.mark.ray
def test_score_winners_with_several_workers_run_one_after_another(
    ray_cluster: str, tmp_path: Path
) -> None:
    """Half-placed groups of workers would wait for each other forever."""
    changes = {"distributed.num_workers": 2, "data.batch_size": 8, "data.batch_size_u": 8}
    config = build_config(simulated_config(trials=3).model_dump(mode="json"), changes)
    uninterrupted(tmp_path / "run", config)
    log = tmp_path / "tests.log"
    with open_search(tmp_path / "run", config) as search:
        recorder = EventRecorder()
        search.add_callback(recorder)
        for winner in winners(search.store):
            checkpoint = tmp_path / "run" / "checkpoints" / winner.name / "last.pt"
            checkpoint.parent.mkdir(parents=True)
            checkpoint.touch()
        score_winners(search, functools.partial(score_and_log, log), Resources(0.01, 0))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [event for _, event in lines] == ["starts", "ends"] * len(RATIOS)
    scored = {record["run"] for (record,) in recorder.of("on_trial_result")}
    assert {name for name, _ in lines} == scored
    assert not recorder.of("on_message")


# ---- in this process, without Ray ----


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[Search]:
    """A search whose trials have all finished; those that search have a checkpoint."""
    changes: dict[str, Any] = {"search.baselines": ["supervised"], "search.repeats": {"n": 2}}
    with open_search(tmp_path, search_config(trials=6, **changes)) as search:
        for trial in run_trials(search):
            if not trial.key.repeats_of:
                checkpoint = tmp_path / "checkpoints" / trial.name / "last.pt"
                checkpoint.parent.mkdir(parents=True)
                checkpoint.touch()
        yield search


def runs_with_test_scores(search: Search) -> dict[str, Record]:
    """Of the trials of studies with several trials: those that finalize has to score."""
    finals = of_event(read_records(search.run_dir.local), "final")
    chosen = [r for r in finals if r["method"] == "cid" and not r["repeats_of"]]
    return {record["run"]: record for record in chosen if "test/miou" in record}


def test_score_winners_record_says_which_trial_it_is_about(finished: Search) -> None:
    recorder = EventRecorder()
    finished.add_callback(recorder)
    assert not runs_with_test_scores(finished)
    score_winners(finished, score_on_test, None)
    scored = runs_with_test_scores(finished)
    expected = {winner.name: winner for winner in winners(finished.store)}
    assert scored.keys() == expected.keys() and len(expected) == 2
    for name, winner in expected.items():
        assert scored[name].items() >= winner.identity_fields.items()
        assert scored[name]["params"] == winner.params
    assert [record["run"] for (record,) in recorder.of("on_trial_result")] == list(expected)


def test_score_winners_without_checkpoint_says_that_it_trains_again(finished: Search) -> None:
    recorder = EventRecorder()
    finished.add_callback(recorder)
    lost, _ = (winner.name for winner in winners(finished.store))
    (finished.run_dir.local / "checkpoints" / lost / "last.pt").unlink()
    score_winners(finished, score_on_test, None)
    ((text, important),) = recorder.of("on_message")
    assert important and text.startswith(f"{lost} is trained again: its checkpoint is not in")
    assert len(runs_with_test_scores(finished)) == 2
    assert search_outcome(finished, 1.0)[0] == 0


def test_score_winners_failed_test_is_named_and_others_are_scored(finished: Search) -> None:
    recorder = EventRecorder()
    finished.add_callback(recorder)
    broken, healthy = (winner.name for winner in winners(finished.store))

    def trial_fn(run_dir: str, cpus: float, payload: dict[str, Any]) -> Iterator[Record]:
        if payload["name"] == broken:
            raise RuntimeError("the checkpoint is damaged")
        yield from score_on_test(run_dir, cpus, payload)

    score_winners(finished, trial_fn, None)
    assert runs_with_test_scores(finished).keys() == {healthy}
    ((text, important),) = recorder.of("on_message")
    assert important
    code, lines = search_outcome(finished, 1.0)
    assert code == 1 and lines[-1].startswith("1 not scored on test; again with: python -m")
    assert text.startswith(f"{broken} could not be scored on test (RuntimeError: the checkpoint")


def test_delete_losing_checkpoints_keeps_chosen_and_repeated_runs(
    finished: Search, tmp_path: Path
) -> None:
    store = finished.store
    repeated = {key.repeats_of for key in store.repeat_keys()}
    chosen = {winner.name for winner in winners(store)}
    delete_losing_checkpoints(finished)
    kept = {folder.name for folder in (tmp_path / "checkpoints").iterdir()}
    unfinished = {
        t.user_attrs["run"]
        for key in store.search_keys()
        for t in store.trials(key)
        if t.state.name != "COMPLETE"
    }
    assert kept - unfinished == repeated | chosen
    assert len(repeated | chosen) < sum(len(store.ranked(key)) for key in store.search_keys())


def test_finalize_twice_has_every_record_once(finished: Search, tmp_path: Path) -> None:
    finished.finalize(score_on_test)
    first = read_records(tmp_path)
    assert of_event(first, "search") and of_event(first, "noise")
    finished.finalize(score_on_test)
    assert finished.rules.reason == ""
    assert [r["run"] for r in read_records(tmp_path)] == [r["run"] for r in first]
    assert (tmp_path / "report" / "index.html").stat().st_size > 0
