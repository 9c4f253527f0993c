"""One machine of a search that several machines share.

`python -m tests.helpers.shared_search_machine OUT URL NAME TIMEOUT_S`

Search, database and records are real. Training is simulated (benchmarks/harness/chaos.py), and Tune
is left out: one trial at a time runs in this process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.chaos import simulated_config, simulated_trial
from cid_ray.callbacks.console import SearchConsole
from cid_ray.cli.console import RunConsole
from cid_ray.config import Config, build_config
from cid_ray.search.controller import Decision, Search
from cid_ray.search.outcome import search_outcome
from cid_ray.search.status import SearchStatus
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.storage.run_dir import RunDir

RATIO = "1/8"
SEGMENT_S = 0.1  # between two rungs
WAIT_S = 0.1  # before the next look at the trials of other machines


def shared_config(url: str, name: str) -> Config:
    """A supervised baseline, four CID trials and two repeats of the best of both."""
    changes = {
        "search.ratios": [RATIO],
        "search.baselines": ["supervised"],
        "search.repeats.top": 1,
        "study.storage": url,
        "study.name": name,
    }
    return build_config(simulated_config(trials=4).model_dump(mode="json"), changes)


def open_shared_search(out: Path, url: str, name: str, timeout_s: int) -> Search:
    """The shared search in the run folder of one machine."""
    return Search.open(shared_config(url, name), RunDir(out), timeout_s=timeout_s)


def run_machine(
    out: Path,
    url: str,
    name: str,
    timeout_s: int,
    at_record: Callable[[str], None] = lambda run: None,
) -> Search:
    """Run trial after trial until none is left, on this machine or another.

    Args:
        out: this machine's run folder.
        url: the database.
        name: the study's name in it.
        timeout_s: seconds without heartbeat after which a trial is stale.
        at_record: called with the run's name before each record is reported.

    Returns:
        The search, closed.
    """
    started = time.monotonic()
    with (
        open_shared_search(out, url, name, timeout_s) as search,
        RunConsole(out, search.total, "trial") as console,
    ):
        status = SearchStatus(search.store, {RATIO: f"{RATIO} (10)"})
        for callback in (status, SearchConsole(console, status)):
            search.add_callback(callback)
        with search.heartbeat.in_background():
            _run_trials(search, at_record)
        with search.storage_errors():
            if not search.rules.reason:
                search.events.backfill()
        _, lines = search_outcome(search, time.monotonic() - started)
        for line in lines:
            console.log(line, always=True)
    return search


def _run_trials(search: Search, at_record: Callable[[str], None]) -> None:
    while True:
        trial = search.next_trial()
        if trial is not None:
            _run_trial(search, trial, at_record)
        elif search.should_stop() or not search.has_work():
            return
        else:
            time.sleep(WAIT_S)


def _run_trial(search: Search, trial: TrialSpec, at_record: Callable[[str], None]) -> None:
    for record in simulated_trial(str(search.run_dir), 1.0, trial.payload, SEGMENT_S):
        at_record(trial.name)
        if search.report(record) is Decision.STOP:
            return


if __name__ == "__main__":
    arguments = sys.argv[1:]
    last = run_machine(Path(arguments[0]), arguments[1], arguments[2], int(arguments[3]))
    sys.exit(bool(last.rules.reason))
