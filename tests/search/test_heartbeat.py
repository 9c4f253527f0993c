"""Laws of trials whose heartbeat stops, on a real PostgreSQL: each runs again once, in its place.

The machines are processes that are killed or frozen (tests/helpers/shared_search_machine.py). Only
training is simulated.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState

from benchmarks.harness.chaos import count_log_lines, simulated_config, simulated_record
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.results.summary import summarize
from cid_ray.search.controller import Search
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.search.trial_states import RETRY_OF, repeat_index_of
from tests.helpers.ports import wait_until
from tests.helpers.shared_search_machine import open_shared_search, run_machine
from tests.helpers.simulated_studies import finish_trial, next_trial

TIMEOUT_S = 2
SHORT_TIMEOUT_S = 1
AFTER_SHORT_TIMEOUT_S = 1.5
N_SEARCH = 1 + 4  # supervised, CID
N_TRIALS = N_SEARCH + 2 * 2  # two repeats of the best of both

pytestmark = pytest.mark.process


@contextmanager
def machine_process(out: Path, url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """A machine that works in a process of its own."""
    module = "tests.helpers.shared_search_machine"
    command = [sys.executable, "-m", module, str(out), url, name, str(TIMEOUT_S)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def running_trial(out: Path, matches: Callable[[Record], bool]) -> str:
    """A trial with a rung that has not finished, or ""."""
    records = read_records(out)
    finished = {r["run"] for r in of_event(records, "trial") + of_event(records, "final")}
    for record in of_event(records, "rung"):
        if record["run"] not in finished and matches(record):
            return str(record["run"])
    return ""


def is_repeat(record: Record) -> bool:
    return bool(record["repeats_of"])


def is_cid(record: Record) -> bool:
    return bool(record["method"] == "cid")


# ---- whole machines ----


def check_store(store: StudyStore, stale: str) -> None:
    """Every place of every study is taken once, by one finished trial."""
    for key in store.studies:
        finished = store.trials(key, TrialState.COMPLETE, TrialState.PRUNED)
        assert len(finished) == store.n_trials(key), key.study_name
        trials = store.all_trials(key)
        indices = sorted(repeat_index_of(trials, trial) for trial in store.trials(key))
        assert indices == list(range(1, store.n_trials(key) + 1))
        for trial in store.trials(key):
            replaced = trials[trial.user_attrs.get(RETRY_OF, trial.number)]
            assert replaced.params == trial.params
    assert len(store.finished()) == N_TRIALS
    assert stale not in store.finished()


def check_records(search: Search, finished: set[str], stale: str) -> None:
    """A machine's records have all trials and the stale one; the latter is no result."""
    out = search.run_dir.local
    records = read_records(out)
    assert {record["run"] for record in of_event(records, "trial")} == finished
    assert [record["run"] for record in of_event(records, "stale")] == [stale]
    assert count_log_lines(out, f"{stale}: stale: no heartbeat from its machine") == 1
    (summary,) = summarize(records)
    repeats = list(summary.repeats.values())
    assert stale not in {*summary.rungs, *summary.finals, *(r["run"] for rs in repeats for r in rs)}
    assert [len(records) for records in repeats] == [2, 2]
    seeds = [{(r["repeat_index"], r["seed"], r["draw"]) for r in records} for records in repeats]
    assert seeds[0] == seeds[1] and len(seeds[0]) == 2


def check_machines(late: Search, stale: str, *machines: Search) -> None:
    """`late` has just opened the search that the others have finished."""
    with late:
        check_store(late.store, stale)
        for search in machines:
            check_records(search, set(late.store.finished()), stale)


def test_repeat_of_killed_machine_runs_again_with_same_seed_and_draw(
    database: str, tmp_path: Path
) -> None:
    name = "killed for good"
    with open_shared_search(tmp_path / "first", database, name, TIMEOUT_S) as first:
        for _ in range(N_SEARCH):
            trial = next_trial(first)
            final = simulated_record(trial.config, trial.name, trial.config.train.steps)
            first.report({"event": "final", **final})
    gone = tmp_path / "gone"
    with machine_process(gone, database, name) as process:
        wait_until(lambda: running_trial(gone, is_repeat))
        process.kill()
        process.wait()
    stale = running_trial(gone, is_repeat)
    mine = run_machine(tmp_path / "mine", database, name, TIMEOUT_S)
    back = run_machine(gone, database, name, TIMEOUT_S)
    late = open_shared_search(tmp_path / "late", database, name, TIMEOUT_S)
    check_machines(late, stale, mine, back)


@pytest.mark.slow
def test_frozen_machine_finds_its_trial_stale_and_runs_others(
    database: str, tmp_path: Path
) -> None:
    name = "frozen"
    frozen = tmp_path / "frozen"
    with machine_process(frozen, database, name) as process:
        wait_until(lambda: running_trial(frozen, is_cid))
        process.send_signal(signal.SIGSTOP)
        stale = running_trial(frozen, is_cid)
        assert stale

        def thaw(run: str) -> None:
            """When this machine has found the trial stale, the frozen one shall find it too."""
            found_here = count_log_lines(tmp_path / "mine", f"{stale}: stale")
            found_there = count_log_lines(frozen, f"{stale}: stale")
            if found_here and not found_there:
                process.send_signal(signal.SIGCONT)
                wait_until(lambda: count_log_lines(frozen, f"{stale}: stale"))
            elif found_there:
                time.sleep(0.3)  # leave the other machine something to do

        mine = run_machine(tmp_path / "mine", database, name, TIMEOUT_S, thaw)
        assert process.wait(60) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()
    back = run_machine(frozen, database, name, TIMEOUT_S)
    late = open_shared_search(tmp_path / "late", database, name, TIMEOUT_S)
    check_machines(late, stale, mine, back)
    segments = [line.split()[0] for line in (frozen / "work.log").read_text().splitlines()]
    assert set(segments[segments.index(stale) :]) - {stale}


# ---- trial queues, without records ----


def leave_stale_trial(folder: Path, url: str, name: str) -> TrialSpec:
    """A machine finishes the baseline, starts a CID trial and sends no heartbeat any more."""
    queue = open_shared_search(folder, url, name, SHORT_TIMEOUT_S).queue
    baseline = queue.next_trial()
    assert baseline is not None
    finish_trial(queue, baseline)
    trial = queue.next_trial()
    assert trial is not None
    time.sleep(AFTER_SHORT_TIMEOUT_S)
    return trial


def test_poll_of_concurrent_machines_reenqueues_stale_trial_once(
    database: str, tmp_path: Path
) -> None:
    machines = [
        open_shared_search(tmp_path / str(number), database, "noticed", SHORT_TIMEOUT_S)
        for number in range(3)
    ]
    stale = leave_stale_trial(tmp_path / "gone", database, "noticed")
    barrier = threading.Barrier(3)
    runs: list[str] = []
    weights: list[float] = []

    def run_machine_thread(search: Search) -> None:
        barrier.wait(60)
        search.refresh()
        while (trial := search.queue.next_trial()) is not None:
            runs.append(trial.name)
            if trial.key.method == "cid" and not trial.key.repeats_of:
                weights.append(trial.params["loss.relation_weight"])
            finish_trial(search.queue, trial)

    threads = [threading.Thread(target=run_machine_thread, args=(s,)) for s in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    late = open_shared_search(tmp_path / "late", database, "noticed", SHORT_TIMEOUT_S)
    assert len(runs) == len(set(runs)) == N_TRIALS - 1
    assert len(late.store.finished()) == N_TRIALS
    assert weights.count(stale.params["loss.relation_weight"]) == 1
    assert len(set(weights)) == 4
    for search in machines:
        assert list(search.heartbeat.stale_runs()) == [stale.name]
        (record,) = of_event(read_records(search.run_dir.local), "stale")
        assert record.items() >= stale.identity_fields.items()


def test_next_trial_of_two_retries_of_stale_trial_the_first_counts(
    database: str, tmp_path: Path
) -> None:
    mine, other = (
        open_shared_search(tmp_path / name, database, "twins", SHORT_TIMEOUT_S)
        for name in ("mine", "other")
    )
    stale = leave_stale_trial(tmp_path / "gone", database, "twins")
    mine.heartbeat.poll()
    # What the other machine would do in the same moment.
    mine.store.studies[stale.key].enqueue_trial(dict(stale.params), {RETRY_OF: stale.number})
    trials = [
        trial
        for search in (mine, other, mine, other)
        if (trial := search.queue.next_trial()) is not None
    ]
    weights = [trial.params["loss.relation_weight"] for trial in trials]
    assert len(trials) == len(set(weights)) == 4
    assert weights[0] == stale.params["loss.relation_weight"]
    assert mine.queue.next_trial() is None
    assert mine.store.n_started(stale.key) == 4


def test_repeat_index_after_stale_repeat_continues_as_before(database: str, tmp_path: Path) -> None:
    """Retries do not count: the next repeat has the next index, whatever its trial number is."""
    first = open_shared_search(tmp_path / "mine", database, "pairs", SHORT_TIMEOUT_S).queue
    while (trial := first.next_trial()) is not None and not trial.key.repeats_of:
        finish_trial(first, trial)
    assert trial is not None and trial.repeat_index == 1
    time.sleep(AFTER_SHORT_TIMEOUT_S)

    search = open_shared_search(tmp_path / "next", database, "pairs", SHORT_TIMEOUT_S)
    search.heartbeat.poll()
    queue = search.queue
    indices: dict[str, list[int]] = {}
    while (trial := queue.next_trial()) is not None:
        indices.setdefault(trial.key.repeats_of, []).append(trial.repeat_index)
        assert trial.config.train.seed == search.config.train.seed + trial.repeat_index
        finish_trial(queue, trial)
    assert sorted(map(sorted, indices.values())) == [[1, 2], [1, 2]]
    # As `--resume --set search.repeats.n=3` does.
    search.config.search.repeats.__dict__["n"] = 3
    more = [trial.repeat_index for _ in range(2) if (trial := queue.next_trial()) is not None]
    assert more == [3, 3]


# ---- results ----


def test_summary_leaves_out_records_of_stale_trial() -> None:
    config = simulated_config()
    records: list[Record] = [
        {"event": event, "repeats_of": "", **simulated_record(config, run, 80)}
        for run in ("a", "b")
        for event in ("rung", "final")
    ]
    stale = {"event": "stale", "run": "a", "reason": "", "timestamp": 0.0}
    (summary,) = summarize([*records, stale])
    assert set(summary.finals) == set(summary.rungs) == {"b"}
