"""Laws of shared studies, on a real PostgreSQL: no trial twice, none lost.

Every machine's records and report have all trials. Training is simulated, except in the test of two
whole commands.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from cid_ray.config import Config, InputError, build_config
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.search.controller import Search
from cid_ray.search.space import Space
from cid_ray.search.study_store import StudyStore
from cid_ray.storage.run_dir import RunDir
from tests.helpers import object_store
from tests.helpers.ports import wait_until
from tests.helpers.postgres import PASSWORD, serving
from tests.helpers.shared_search_machine import run_machine
from tests.helpers.simulated_studies import (
    failed_record,
    final_record,
    kill_search,
    next_trial,
    open_search,
)
from tests.helpers.small_search import METHODS, space_file
from tests.helpers.tiny_run import TINY

pytestmark = pytest.mark.process


def shared_config(url: str, name: str, trials: int = 6) -> Config:
    search = {
        "ratios": ["1/8"],
        "trials": trials,
        "baselines": ["supervised"],
        "space": {"loss.relation_weight": {"float": [0.01, 1.0]}},
    }
    return build_config(TINY, {"study": {"storage": url, "name": name}, "search": search})


def open_shared(folder: Path, url: str, name: str, trials: int = 6) -> Search:
    return open_search(folder, shared_config(url, name, trials))


# ---- trials of several machines ----


def test_next_trial_of_concurrent_machines_starts_every_trial_once(
    database: str, tmp_path: Path
) -> None:
    runs: list[str] = []
    weights: list[float] = []
    barrier = threading.Barrier(3)

    def run_machine_thread(number: int) -> None:
        with open_shared(tmp_path / str(number), database, "crowd", trials=9) as search:
            barrier.wait(60)
            while (trial := search.next_trial()) is not None:
                runs.append(trial.name)
                if trial.key.method == "cid":
                    weights.append(trial.params["loss.relation_weight"])
                search.report(final_record(trial))
            assert not search.rules.reason

    threads = [threading.Thread(target=run_machine_thread, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(runs) == len(set(runs)) == 10
    assert len(weights) == len(set(weights)) == 9
    with open_shared(tmp_path / "late", database, "crowd", trials=9) as search:
        assert len(search.store.finished()) == 10


def test_resume_takes_own_interrupted_trials_only(database: str, tmp_path: Path) -> None:
    with open_shared(tmp_path / "other", database, "killed") as other:
        one = open_shared(tmp_path / "one", database, "killed")
        own = next_trial(one)
        assert own.name != next_trial(other).name
        assert one.store.n_remote() == 1
        kill_search(one)
        with open_shared(tmp_path / "one", database, "killed") as one:
            storage = one.store.storage
            queue = [
                interrupted.key.run_name(storage.get_trial(interrupted.trial_id).number)
                for interrupted in one.queue.resume_queue
            ]
            assert queue == [own.name]
            resumed = next_trial(one)
            assert (resumed.name, dict(resumed.params)) == (own.name, dict(own.params))


def test_report_failure_in_shared_study_fails_that_trial_only(
    database: str, tmp_path: Path
) -> None:
    with open_shared(tmp_path / "one", database, "failing") as search:
        trial = next_trial(search)
        search.report(failed_record(trial, "RuntimeError: no"))
        assert search.store.finished()[trial.name] == TrialState.FAIL
        assert search.next_trial() is not None


def test_backfill_while_other_machine_finishes_trial_has_its_records(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial finishes between two reads of the database: its end comes with its scores."""
    with (
        open_shared(tmp_path / "mine", database, "in between") as mine,
        open_shared(tmp_path / "other", database, "in between") as other,
    ):
        trial = next_trial(other)
        read = mine.store.stored_records

        def read_stored_records() -> list[Record]:
            records = read()
            if trial.name in other.queue.running:
                other.report(final_record(trial))
            return records

        monkeypatch.setattr(mine.store, "stored_records", read_stored_records)
        mine.events.backfill()
        mine.events.backfill()
    events = [record["event"] for record in read_records(tmp_path / "mine")]
    assert events == ["final", "trial"]


# ---- what is refused ----


def test_open_another_search_of_same_name_is_refused(database: str, tmp_path: Path) -> None:
    open_shared(tmp_path / "one", database, "taken").close()
    changes = {"study": {"storage": database, "name": "taken"}, "train.steps": 13}
    message = r"taken holds another .*train.steps was 12, is 13.*another study.name"
    with pytest.raises(InputError, match=message):
        StudyStore(RunDir(tmp_path / "two"), build_config(TINY, changes), Space.parse({}))


def test_open_with_wrong_password_is_refused_without_naming_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "wrong-word")
    with pytest.raises(InputError, match=r"cannot be opened .*password.*PGPASSWORD") as error:
        open_shared(tmp_path, database, "closed")
    assert "wrong-word" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:word@host/db",
        "postgresql://host/db?password=word",
        "host/db",
    ],
)
def test_config_database_url_with_password_is_refused(url: str) -> None:
    message = r"study.storage.*(set it in the environment|are taken from the environment).*PGPASSW"
    with pytest.raises(InputError, match=message):
        build_config(TINY, {"study.storage": url})


def test_config_storage_of_studies_changes_no_fingerprint(database: str) -> None:
    shared = build_config({}, {"study.storage": database})
    assert Config().fingerprint() == shared.fingerprint()


# ---- a lost database, and whole commands ----


def test_search_with_lost_database_names_it_and_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as (url, env, server):
        for name, value in env.items():
            monkeypatch.setenv(name, value)

        def stop_server(run: str) -> None:
            if run == "1_8-cid-001" and server.poll() is None:
                server.kill()
                server.wait()

        assert run_machine(tmp_path / "mine", url, "plug", 60, stop_server).rules.reason
    log = (tmp_path / "mine" / "log.txt").read_text()
    assert f"stopped: the studies' database, {url}, does not answer: " in log
    assert f"resume with: python -m cid_ray.tune --resume {tmp_path / 'mine'}" in log
    assert PASSWORD not in log and "Traceback" not in log


def records_of(run_dir_uri: str) -> list[Record]:
    with RunDir(run_dir_uri) as run_dir:
        run_dir.pull()
        return read_records(run_dir.local)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_tune_commands_share_search_in_object_store_and_killed_one_resumes(
    database: str, small_demo: Path, tmp_path: Path
) -> None:
    space = space_file(tmp_path, small_demo, trials=4, max_concurrent_trials=1)
    study = {"study": {"storage": database, "name": "two"}}
    space.write_text(yaml.safe_dump(yaml.safe_load(space.read_text()) | study))
    with object_store.serving() as store:
        command = [sys.executable, "-m", "cid_ray.tune"]
        env = {**os.environ, "RAY_ADDRESS": "local"}
        start = [*command, "--config", str(space), "--set", "train.steps=60", "--out"]
        outs = [f"{object_store.BUCKET}/two/{name}" for name in ("one", "two")]
        one, two = (
            subprocess.Popen(
                [*start, out], env=env, stdout=subprocess.DEVNULL, start_new_session=True
            )
            for out in outs
        )
        wait_until(lambda: len(of_event(records_of(outs[0]), "trial")) >= 3, 250)
        assert one.poll() is None
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        one = subprocess.Popen([*command, "--resume", outs[0]], env=env, stdout=subprocess.DEVNULL)
        assert two.wait(280) == 0
        assert one.wait(280) == 0
        check_shared_records(records_of(outs[0]))
        secrets = [store["AWS_SECRET_ACCESS_KEY"].encode(), PASSWORD.encode()]
        for out in outs:
            check_no_secrets(out, secrets)


def check_shared_records(records: list[Record]) -> None:
    """Every trial finished once, with its scores; every winner is scored on test."""
    trials = of_event(records, "trial")
    assert len(trials) == 2 * (len(METHODS) - 1 + 4) == len({r["run"] for r in trials})
    assert {record["state"] for record in trials} <= {"complete", "pruned"}
    complete = {record["run"] for record in trials if record["state"] == "complete"}
    finals = of_event(records, "final")
    assert {record["run"] for record in finals} >= complete
    scored = {(r["ratio"], r["method"]) for r in finals if "test/miou" in r}
    assert len(scored) == 2 * len(METHODS), "every winner is scored, whichever machine trained it"


def check_no_secrets(run_dir_uri: str, secrets: list[bytes]) -> None:
    with RunDir(run_dir_uri) as run_dir:
        for folder in ("", "report", "samples"):
            run_dir.pull(folder)
        files = [file.read_bytes() for file in run_dir.local.rglob("*.*") if file.is_file()]
    assert len(files) > 5
    assert not any(secret in content for secret in secrets for content in files)
