"""Laws of machines that fall silent, on a real PostgreSQL: their trials are begun again once, in the same place.

The machines are real processes that are killed or frozen (tests/machine.py); only training is simulated.
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

from cid_ray.results.record import of_event, read_rows
from cid_ray.results.summary import summarize
from cid_ray.search import silence
from cid_ray.search.standing import Standing
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch
from tests.chaos import lines, simulated_config, simulated_row
from tests.machine import shared_studies, work
from tests.postgres import PASSWORD, serving

SILENT = 2  # seconds
TOTAL = 1 + 4 + 2 * 2  # supervised, CID, two repeats of the best of both


@contextmanager
def other_machine(out: Path, url: str, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.machine", str(out), url, name, str(SILENT)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(out: Path, part: str = "") -> str:
    """A trial that has a rung behind it and not its end."""
    rows = read_rows(out)
    over = {row["run"] for row in of_event(rows, "trial") + of_event(rows, "final")}
    return next((r["run"] for r in of_event(rows, "rung") if r["run"] not in over and part in r["run"]), "")


def check(books: Studies, lost: str, *watches: Watch) -> None:
    """Every place is filled once, by one trial that has ended; every machine's record has all of them, and the loss."""
    assert {
        arm.study_name: len(books.trials(arm, TrialState.COMPLETE, TrialState.PRUNED)) for arm in books.studies
    } == {arm.study_name: books.wanted(arm) for arm in books.studies}
    assert len(books.ended()) == TOTAL and lost not in books.ended()
    for arm in books.studies:
        every = books.every_trial(arm)
        assert sorted(silence.pair_of(every, t) for t in books.trials(arm)) == list(range(1, books.wanted(arm) + 1))
        for trial in books.trials(arm):
            assert every[trial.user_attrs.get(silence.AGAIN, trial.number)].params == trial.params
    for watch in watches:
        rows = read_rows(watch.home.here)
        assert {row["run"] for row in of_event(rows, "trial")} == set(books.ended())
        assert [row["run"] for row in of_event(rows, "lost")] == [lost]
        assert lines(watch.home.here, f"{lost}: lost: its machine") == 1
        (summary,) = summarize(rows)
        repeats = {row["run"] for some in summary.confirmed.values() for row in some}
        assert lost not in {*summary.rungs, *summary.trials, *repeats}
        assert [len(repeats) for repeats in summary.confirmed.values()] == [2, 2]
        pairs = [{(r["pair"], r["seed"], r["draw"]) for r in repeats} for repeats in summary.confirmed.values()]
        assert pairs[0] == pairs[1] and len(pairs[0]) == 2


def test_the_repeat_of_a_machine_that_is_killed_is_run_by_another_on_the_same_seed_and_draw(
    database: str, tmp_path: Path
) -> None:
    book = shared_studies(tmp_path / "first", database, "killed for good", SILENT)
    for _ in range(5):  # the search itself
        assignment = book.next()
        assert assignment
        book.end(assignment.name, TrialState.COMPLETE, [1.0])
    with other_machine(tmp_path / "gone", database, "killed for good") as process:
        until(lambda: running(tmp_path / "gone", "-pair"))
        process.kill()
        process.wait()
    lost = running(tmp_path / "gone", "-pair")
    mine = work(tmp_path / "mine", database, "killed for good", SILENT)
    back = work(tmp_path / "gone", database, "killed for good", SILENT)
    check(shared_studies(tmp_path / "late", database, "killed for good", SILENT), lost, mine, back)


@pytest.mark.slow
def test_a_machine_that_was_only_frozen_finds_its_trial_taken_and_goes_on_with_others(
    database: str, tmp_path: Path
) -> None:
    with other_machine(tmp_path / "frozen", database, "frozen") as process:
        until(lambda: running(tmp_path / "frozen", "-cid"))
        process.send_signal(signal.SIGSTOP)
        lost = running(tmp_path / "frozen", "-cid")
        assert lost

        def thaw(name: str) -> None:
            if lines(tmp_path / "mine", f"{lost}: lost") and not lines(tmp_path / "frozen", f"{lost}: lost"):
                process.send_signal(signal.SIGCONT)
                until(lambda: lines(tmp_path / "frozen", f"{lost}: lost"))
            elif lines(tmp_path / "frozen", f"{lost}: lost"):
                time.sleep(0.3)  # leave it something to do

        mine = work(tmp_path / "mine", database, "frozen", SILENT, thaw)
        assert process.wait(60) == 0 and process.stderr and "Traceback" not in process.stderr.read()
    back = work(tmp_path / "frozen", database, "frozen", SILENT)
    check(shared_studies(tmp_path / "late", database, "frozen", SILENT), lost, mine, back)
    worked = [line.split()[0] for line in (tmp_path / "frozen" / "work.log").read_text().splitlines()]
    assert set(worked[worked.index(lost) :]) - {lost}


def test_two_that_notice_at_once_begin_it_again_once(database: str, tmp_path: Path) -> None:
    gone = shared_studies(tmp_path / "gone", database, "noticed", 1)
    gone.end(gone.next().name, TrialState.COMPLETE, [1.0])  # type: ignore[union-attr]
    lost = gone.next()
    assert lost
    machines = [shared_studies(tmp_path / str(number), database, "noticed", 1) for number in range(3)]
    time.sleep(1.5)
    gate, taken = threading.Barrier(3), list[tuple[str, object]]()

    def machine(book: Studies) -> None:
        gate.wait(60)
        book.vigil.look()
        while assignment := book.next():
            taken.append((assignment.name, assignment.params.get("loss.relation_weight")))
            book.end(assignment.name, TrialState.COMPLETE, [1.0])

    threads = [threading.Thread(target=machine, args=(book,)) for book in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    ended = shared_studies(tmp_path / "late", database, "noticed", 1).ended()
    assert len({name for name, _ in taken}) == len(taken) == TOTAL - 1 == len(ended) - 1
    searched = [weight for name, weight in taken if "-cid" in name and "-pair" not in name]
    assert searched.count(lost.params["loss.relation_weight"]) == 1 and len(set(searched)) == 4
    assert all(list(book.vigil.lost()) == [lost.name] for book in machines)


def test_of_two_trials_that_follow_one_lost_trial_the_first_counts(database: str, tmp_path: Path) -> None:
    gone, mine, other = (shared_studies(tmp_path / name, database, "twins", 1) for name in ("gone", "mine", "other"))
    gone.end(gone.next().name, TrialState.COMPLETE, [1.0])  # type: ignore[union-attr]
    lost = gone.next()
    assert lost
    time.sleep(1.5)
    mine.vigil.look()
    mine.studies[lost.arm].enqueue_trial(lost.params, {silence.AGAIN: lost.trial.number})  # what `other` would do
    found = [assignment for book in (mine, other, mine, other) if (assignment := book.next())]
    weights = [assignment.params["loss.relation_weight"] for assignment in found]
    assert len(found) == 4 == len(set(weights)) and weights[0] == lost.params["loss.relation_weight"]
    assert mine.next() is None and mine.begun(lost.arm) == 4


def test_after_a_loss_more_repeats_are_paired_as_before(database: str, tmp_path: Path) -> None:
    """Pairs are counted without the trials that follow: the next repeat has the next pair, whatever its number."""
    book = shared_studies(tmp_path / "mine", database, "pairs", 1)
    while (assignment := book.next()) and not assignment.arm.confirms:
        book.end(assignment.name, TrialState.COMPLETE, [1.0])
    assert assignment and assignment.pair == 1
    time.sleep(1.5)
    heir = shared_studies(tmp_path / "heir", database, "pairs", 1)
    heir.vigil.look()
    pairs: dict[str, list[int]] = {}
    while again := heir.next():
        pairs.setdefault(again.arm.confirms, []).append(again.pair)
        assert again.config.train.seed == heir.config.train.seed + again.pair
        heir.end(again.name, TrialState.COMPLETE, [1.0])
    assert sorted(map(sorted, pairs.values())) == [[1, 2], [1, 2]]
    heir.config.search.confirm.__dict__["repeats"] = 3  # as `--resume --set search.confirm.repeats=3`
    more = [a.pair for _ in range(2) if (a := heir.next())]
    assert more == [3, 3]


def test_the_table_counts_the_trials_of_all_machines(database: str, tmp_path: Path) -> None:
    mine, other = (shared_studies(tmp_path / name, database, "table", SILENT) for name in ("mine", "other"))
    standing = Standing(mine, {"1/8": "1/8 (10)"})
    for value in (50.0, 60.0):
        theirs = other.next()
        assert theirs
        other.end(theirs.name, TrialState.COMPLETE, [value])
    standing.looked()
    found = {line.method: (line.ended, line.best, line.over) for line in standing.lines()}
    assert found == {"supervised": ({"complete": 1}, 50.0, None), "cid": ({"complete": 1}, 60.0, 10.0)}


def test_a_database_that_is_lost_in_the_middle_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as (url, env, server):
        for name, value in env.items():
            monkeypatch.setenv(name, value)

        def pull_the_plug(name: str) -> None:
            if "-cid-001" in name and server.poll() is None:
                server.kill()
                server.wait()

        assert work(tmp_path / "mine", url, "plug", 60, pull_the_plug).reason
        told = (tmp_path / "mine" / "log.txt").read_text()
        assert f"stopped: the studies' database, {url}, does not answer: " in told
        assert f"go on with: python -m cid_ray.tune --resume {tmp_path / 'mine'}" in told
        assert PASSWORD not in told and "Traceback" not in told


def test_rows_of_a_lost_trial_are_no_result() -> None:
    config = simulated_config()
    rows = [{"event": event, **simulated_row(config, run, 80)} for run in ("a", "b") for event in ("rung", "final")]
    (summary,) = summarize([*rows, {"event": "lost", "run": "a", "reason": "", "at": 0.0}])
    assert set(summary.trials) == set(summary.rungs) == {"b"}
