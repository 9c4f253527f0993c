"""Contract of `ray job submit -- python -m cid_ray.tune` on a cluster of its own that asks for a
token: output, exit code, job metadata, stopping, and resuming after the head was lost.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.config import load_config
from cid_ray.data.sources import open_table
from cid_ray.results.records import of_event, read_records
from tests.helpers.ports import free_port, reachable, wait_until
from tests.helpers.ray_head import COMMIT, RayHead, ray_head
from tests.helpers.services import find_program, require_service
from tests.helpers.small_search import space_file, states

pytestmark = pytest.mark.ray
LONG_TRIALS = ["--set", "train.steps=400", "--set", "train.rungs=[0.05,1.0]"]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as started:
        yield started


def two_trials(folder: Path, table: Path) -> Path:
    """A search of a baseline and one CID trial."""
    return space_file(folder, table, ratios=["1/8"], trials=1, baselines=["supervised"])


def submit_in_background(head: RayHead, *command: str) -> str:
    """Submit a job and return its id."""
    done = head.submit(*command, wait=False)
    job = re.search(r"raysubmit_\w+", done.stdout)
    assert job, done.stdout + done.stderr
    return job.group()


def has_rung(out: Path) -> bool:
    return bool(of_event(read_records(out), "rung"))


def all_complete(out: Path) -> bool:
    return all(counts == {"COMPLETE": 1} for counts in states(out).values())


def any_running(out: Path) -> bool:
    return any("RUNNING" in counts for counts in states(out).values())


def test_job_of_a_search_streams_rungs_and_shows_its_run_in_the_list_of_jobs(
    head: RayHead, small_demo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    path = two_trials(tmp_path, small_demo)
    done = head.submit("cid_ray.tune", "--config", str(path), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^1_8-\w+-000: step [36]/6 ", done.stdout, re.M)) == 4
    assert "succeeded" in done.stdout
    assert all_complete(out)
    jobs = [job["metadata"] for job in head.get("/api/jobs/")]
    [metadata] = [found for found in jobs if found.get("run") == "run"]
    config = load_config(out / "config.yaml")
    fingerprint = config.fingerprint(open_table(str(small_demo)).fingerprint, "none")
    expected = {"run": "run", "ratio": "1/8 (6)", "fingerprint": fingerprint, "git": COMMIT}
    assert metadata.items() >= expected.items()
    assert {record["git"] for record in of_event(read_records(out), "final")} == {COMMIT}
    secret = head.token.encode()
    assert not any(secret in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_job_with_wrong_configuration_fails_with_the_message(
    head: RayHead, small_demo: Path, tmp_path: Path
) -> None:
    path = two_trials(tmp_path, small_demo)
    done = head.submit("cid_ray.tune", "--config", str(path), "--set", "search.trials=0")
    assert done.returncode != 0
    assert "error: `search.trials` is 0" in done.stdout and "Traceback" not in done.stdout


def test_cluster_without_its_token_refuses_jobs_and_requests(head: RayHead) -> None:
    refused = head.submit("cid_ray", token="not-the-one")
    assert refused.returncode != 0
    assert "token authentication is enabled" in refused.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=30)


@pytest.mark.slow
def test_stopped_job_is_resumed_by_another_job_while_a_third_one_runs(
    head: RayHead, small_demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    out = tmp_path / "run"
    path = two_trials(tmp_path, small_demo)
    command = ["cid_ray.tune", "--config", str(path), "--out", str(out), *LONG_TRIALS]
    job = submit_in_background(head, *command)
    wait_until(lambda: has_rung(out), 280)
    assert head.ray("job", "stop", job).returncode == 0
    log = head.ray("job", "logs", job).stdout
    assert "received SIGTERM; resume with: python -m cid_ray.tune --resume" in log
    assert any_running(out)
    path = two_trials(tmp_path / "other", small_demo)
    command = ["cid_ray.tune", "--config", str(path), "--out", str(tmp_path / "two")]
    other = submit_in_background(head, *command)
    resumed = head.submit("cid_ray.tune", "--resume", str(out))
    assert resumed.returncode == 0, resumed.stdout
    assert "interrupted ones resume" in resumed.stdout
    assert all_complete(out)
    assert head.ray("job", "logs", "--follow", other).returncode == 0
    assert all_complete(tmp_path / "two")


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The address of a Redis server, where a Ray head can keep its state."""
    program = find_program("redis-server")
    require_service("redis-server", program)
    assert program is not None
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: reachable(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_job_is_listed_and_resumed_after_the_head_was_lost(
    small_demo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    path = two_trials(tmp_path, small_demo)
    with redis(tmp_path) as address, ray_head(RAY_REDIS_ADDRESS=address) as head:
        command = ["cid_ray.tune", "--config", str(path), "--out", str(out), *LONG_TRIALS]
        job = submit_in_background(head, *command)
        wait_until(lambda: has_rung(out), 280)
        head.kill()
        assert any_running(out)
        head.start()
        assert job in head.ray("job", "list").stdout
        resumed = head.submit("cid_ray.tune", "--resume", str(out))
        assert resumed.returncode == 0, resumed.stdout
        assert "interrupted ones resume" in resumed.stdout
        assert all_complete(out)
