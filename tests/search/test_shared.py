"""Laws of studies that machines share, on a real PostgreSQL: no trial twice, none lost, all of them in every report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from cid_ray.config import Config, InputError, override
from cid_ray.home import Home
from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.run.display import Display
from cid_ray.search.journal import Hold
from cid_ray.search.space import Space
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch
from tests import object_store
from tests.postgres import PASSWORD
from tests.support import TINY
from tests.test_tune import METHODS, space_file


def studies(folder: Path, url: str, name: str, trials: int = 6) -> Studies:
    space = {"loss.relation_weight": {"float": [0.01, 1.0]}}
    config = override(TINY, {
        "study": {"storage": url, "name": name},
        "search": {"ratios": ["1/8"], "trials": trials, "baselines": ["supervised"], "space": space},
    })  # fmt: skip
    return Studies(Home(folder), config, Space.parse(config.search.space, ()))


def test_machines_that_ask_at_once_begin_every_trial_once(database: str, tmp_path: Path) -> None:
    taken: list[tuple[str, float]] = []
    gate = threading.Barrier(3)

    def machine(number: int) -> None:
        mine = studies(tmp_path / str(number), database, "crowd", trials=9)
        gate.wait(60)
        while assignment := mine.next():
            taken.append((assignment.name, assignment.params.get("loss.relation_weight")))
            mine.end(assignment.name, TrialState.COMPLETE, [1.0])

    machines = [threading.Thread(target=machine, args=(number,)) for number in range(3)]
    for one in machines:
        one.start()
    for one in machines:
        one.join(120)
    weights = [weight for name, weight in taken if "cid" in name]
    assert sum("supervised" in name for name, _ in taken) == 1
    assert len({name for name, _ in taken}) == len(taken) and len(weights) == 9 == len(set(weights))
    assert len(studies(tmp_path / "late", database, "crowd", trials=9).ended()) == 10


def test_a_resume_takes_its_own_interrupted_trials_and_no_others(database: str, tmp_path: Path) -> None:
    one, other = (studies(tmp_path / name, database, "killed") for name in ("one", "other"))
    mine, theirs = one.next(), other.next()
    assert mine and theirs and mine.name != theirs.name and one.elsewhere() == 1
    again = studies(tmp_path / "one", database, "killed")
    assert [arm.run_name(again.storage.get_trial(i).number) for arm, i in again.pending] == [mine.name]
    resumed = again.next()
    assert resumed and resumed.name == mine.name and dict(resumed.params) == dict(mine.params)


def test_a_trial_that_fails_fails_alone(database: str, tmp_path: Path) -> None:
    book = studies(tmp_path / "one", database, "failing")
    with Hold(tmp_path / "one") as hold, Display(tmp_path / "one", book.total(), "trial") as display:
        watch = Watch(book.home, hold, book, display, None)
        assignment = book.next()
        assert assignment
        row = {"event": "failed", "run": assignment.name, "reason": "RuntimeError: no", "traceback": "..."}
        watch.row(row)
        book.fail(assignment.name, row["reason"])
        watch.ended(assignment.name, "failed", row["reason"])
    assert book.ended()[assignment.name] == TrialState.FAIL and book.next()


def test_a_trial_that_ends_while_others_are_read_is_recorded_with_its_rows(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = (studies(tmp_path / name, database, "in between") for name in ("mine", "other"))
    theirs, read = other.next(), mine.kept_rows
    assert theirs

    def reading() -> list[Row]:
        rows = read()
        if theirs.name in other.live:
            other.keep(theirs.name, {"event": "final", "run": theirs.name, "images_seen": 8})
            other.end(theirs.name, TrialState.COMPLETE, [1.0])
        return rows

    monkeypatch.setattr(mine, "kept_rows", reading)
    with Hold(tmp_path / "mine") as hold, Display(tmp_path / "mine", mine.total(), "trial") as display:
        Watch(mine.home, hold, mine, display, None).catch_up()
    events = [row["event"] for row in read_rows(tmp_path / "mine")]
    assert events == ["final", "trial"]


def test_another_search_of_the_same_name_is_refused(database: str, tmp_path: Path) -> None:
    studies(tmp_path / "one", database, "taken")
    config = override(TINY, {"study": {"storage": database, "name": "taken"}, "train.steps": 13})
    with pytest.raises(InputError, match=r"taken holds another .*train.steps was 12, is 13.*another study.name"):
        Studies(Home(tmp_path / "two"), config, Space.parse({}, ()))


def test_what_cannot_be_opened_is_told_without_the_password(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong-word")
    with pytest.raises(InputError, match=r"cannot be opened .*password.*PGPASSWORD") as told:
        studies(tmp_path, database, "closed")
    assert "wrong-word" not in str(told.value)
    for url in ("postgresql+psycopg://me:word@host/db", "postgresql://host/db?password=word", "host/db"):
        with pytest.raises(InputError, match=r"study.storage.*user and password are taken from the environment"):
            override(TINY, {"study.storage": url})


def rows_in(name: str) -> list[Row]:
    with Home(name) as home:
        home.fetch()
        return read_rows(home.here)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_commands_share_a_search_in_a_store_and_one_that_is_killed_goes_on(
    database: str, small_demo: Path, tmp_path: Path
) -> None:
    space = space_file(tmp_path, small_demo, trials=4, concurrency=1)
    config = yaml.safe_load(space.read_text()) | {"study": {"storage": database, "name": "pair"}}
    space.write_text(yaml.safe_dump(config))
    with object_store.serving() as store:
        command, env = [sys.executable, "-m", "cid_ray.tune"], {**os.environ, "RAY_ADDRESS": "local"}
        begin = [*command, "--config", str(space), "--set", "train.steps=60", "--out"]
        outs = [f"{object_store.BUCKET}/pair/{name}" for name in ("one", "two")]
        one, two = (
            subprocess.Popen([*begin, out], env=env, stdout=subprocess.DEVNULL, start_new_session=True) for out in outs
        )
        deadline = time.monotonic() + 250
        while len(of_event(rows_in(outs[0]), "trial")) < 3:
            assert one.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        one = subprocess.Popen([*command, "--resume", outs[0]], env=env, stdout=subprocess.DEVNULL)
        assert two.wait(280) == 0
        assert one.wait(280) == 0
        rows = rows_in(outs[0])
        ended = of_event(rows, "trial")
        assert len(ended) == 2 * (len(METHODS) - 1 + 4) == len({row["run"] for row in ended})
        assert {row["state"] for row in ended} <= {"complete", "pruned"}
        complete = {row["run"] for row in ended if row["state"] == "complete"}
        assert {row["run"] for row in of_event(rows, "final")} >= complete
        tested = {(row["ratio"], row["method"]) for row in of_event(rows, "final") if "test/miou" in row}
        assert len(tested) == 2 * len(METHODS), "every winner is tested, whoever trained it"
        secrets = [store["AWS_SECRET_ACCESS_KEY"].encode(), PASSWORD.encode()]
        for out in outs:
            with Home(out) as home:
                for folder in ("", "report", "samples"):
                    home.fetch(folder)
                files = [file.read_bytes() for file in home.here.rglob("*.*") if file.is_file()]
                assert len(files) > 5 and not any(secret in content for secret in secrets for content in files)


def test_the_place_of_the_studies_changes_no_result(database: str) -> None:
    assert Config().fingerprint() == override({}, {"study.storage": database}).fingerprint()
