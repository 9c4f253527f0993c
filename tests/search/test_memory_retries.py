"""Law: after a kill for memory the retry is alone on its node, and fewer trials run at a time.

Tune and the placement of actors are real. The kill is one of the process, told as one for memory:
a test cannot fill the memory of a machine. tests/test_survival.py has Ray's own kills.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import simulated_records
from cid_ray.config import Config
from cid_ray.resources.capacity import Resources
from cid_ray.resources.ray_session import largest_node_cpus
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.memory_retries import NODE_CPUS, MemoryRetries
from cid_ray.search.process_end import ProcessEnd, TrialErrors
from tests.helpers.simulated_studies import next_trial, open_search, search_config

KILLED = "1_8-cid-001"
SECONDS = 0.6  # of a trial


def test_retry_requests_a_node_and_nothing_starts_beside_it_before_its_first_record(
    tmp_path: Path,
) -> None:
    search = open_search(tmp_path, search_config(trials=3))
    trial, other = next_trial(search), next_trial(search)
    memory = MemoryRetries(lambda: 8.0)
    assert memory.payload(trial) == trial.payload and memory.may_start([trial.name] * 30)
    text = memory.note_kill(trial.name, others=3)
    assert text == "; its retry is alone on a node; at most 3 at a time from now on"
    assert memory.payload(other) == other.payload
    assert memory.payload(trial) == {**trial.payload, NODE_CPUS: 8.0}
    assert not memory.may_start([trial.name, other.name])
    memory.note_started(trial.name)
    assert memory.may_start([trial.name, other.name])
    assert not memory.may_start([trial.name, other.name, "third"])
    assert memory.payload(trial) == trial.payload, "once"


def test_retry_that_dies_before_its_first_record_holds_nothing_back(tmp_path: Path) -> None:
    trial = next_trial(open_search(tmp_path, search_config(trials=3)))
    memory = MemoryRetries(lambda: 8.0)
    memory.note_kill(trial.name, others=1)
    memory.payload(trial)
    assert memory.may_start([])


def test_trial_that_ran_alone_changes_nothing(tmp_path: Path) -> None:
    trial = next_trial(open_search(tmp_path, search_config(trials=3)))
    memory = MemoryRetries(lambda: 8.0)
    assert memory.note_kill(trial.name, others=0) == ""
    assert memory.payload(trial) == trial.payload and memory.may_start(["one", "two"])


def test_without_a_node_that_fits_the_retry_is_an_ordinary_one(tmp_path: Path) -> None:
    trial = next_trial(open_search(tmp_path, search_config(trials=3)))
    memory = MemoryRetries(lambda: None)
    memory.note_kill(trial.name, others=2)
    assert memory.payload(trial) == trial.payload and memory.may_start([trial.name])


def timed_trial(log: Path, run_dir: str, cpus: float, payload: dict[str, Any]) -> Iterator[Record]:
    """Simulated records, and when they began and ended. KILLED dies the first time."""
    config, name = Config.model_validate_json(payload["config"]), payload["name"]
    died = Path(run_dir) / "died"
    began = time.time()
    first, *others = simulated_records(config, name)
    time.sleep(SECONDS / 2)
    if name == KILLED and not died.exists():
        died.touch()
        os._exit(1)
    yield first
    time.sleep(SECONDS / 2)
    with log.open("a") as file:
        file.write(json.dumps([name, began, time.time()]) + "\n")
    yield from others


@pytest.mark.ray
def test_retry_runs_while_no_other_trial_runs_on_its_node(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cid_ray.search.ray_adapter import run_search

    original = TrialErrors.take_end

    def as_kill_for_memory(errors: TrialErrors) -> ProcessEnd:
        return dataclasses.replace(original(errors), for_memory=True)

    monkeypatch.setattr(TrialErrors, "take_end", as_kill_for_memory)
    changes = {
        "search.ratios": ["1/8"],
        "search.baselines": [],
        "search.pruner": {"name": "NopPruner"},
    }
    log = tmp_path / "times.txt"
    with open_search(tmp_path / "run", search_config(trials=8, **changes)) as search:
        trial_fn = functools.partial(timed_trial, log)
        run_search(search, Resources(0.5, 0), max_concurrent=4, trial_fn=trial_fn)
    times = {name: (a, b) for name, a, b in map(json.loads, log.read_text().splitlines())}
    assert len(times) == 8
    began, ended = times.pop(KILLED)
    overlapping = [name for name, (a, b) in times.items() if a < ended and b > began]
    assert not overlapping
    assert any(a > ended for a, _ in times.values()), "the others go on"
    [retry] = of_event(read_records(tmp_path / "run"), "retry")
    assert "alone on a node; at most 3 at a time" in retry["reason"]


@pytest.mark.ray
def test_largest_node_is_one_on_which_the_trial_fits(ray_cluster: str) -> None:
    assert largest_node_cpus(Resources(1, 0)) == 2
    assert largest_node_cpus(Resources(1, 1)) is None
