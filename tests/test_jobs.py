"""Contract of `ray job submit -- python -m cid_ray.tune`, against a cluster of its own that asks for a token."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cid_ray.results.record import of_event, read_rows
from tests.object_store import free_port
from tests.test_tune import space_file, states

pytestmark = pytest.mark.ray
RAY = str(Path(sys.executable).with_name("ray"))
SOURCE = Path(__file__).resolve().parent.parent


@dataclass
class Cluster:
    address: str
    env: dict[str, str]

    def ray(self, *words: str, token: bool = True, seconds: float = 280) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **({} if token else {"RAY_AUTH_TOKEN": "not-the-one"})}
        command = [RAY, *words[:2], "--address", self.address, *words[2:]]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds, cwd=SOURCE)

    def submit(self, *command: str, wait: bool = True, token: bool = True) -> subprocess.CompletedProcess[str]:
        waits = [] if wait else ["--no-wait"]
        return self.ray("job", "submit", *waits, "--working-dir", ".", "--", "python", "-m", *command, token=token)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """`ray start --head` of 2 CPUs that asks for a token; its processes are one group, which is killed at the end."""
    port, dashboard, client = (free_port() for _ in range(3))
    token = secrets.token_hex(32)
    away = ("RAY_ADDRESS", "PYTHONPATH")
    env = {**{k: v for k, v in os.environ.items() if k not in away}, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [
            RAY, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=2",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
            "--disable-usage-stats",
        ]  # fmt: skip
        head = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        found = Cluster(f"http://127.0.0.1:{dashboard}", env)
        try:
            deadline = time.monotonic() + 120
            while found.ray("job", "list").returncode:
                assert head.poll() is None and time.monotonic() < deadline
                time.sleep(1)
            yield found
        finally:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def small_space(folder: Path, table: Path, **search: object) -> Path:
    return space_file(folder, table, ratios=["1/8"], trials=1, baselines=["supervised"], **search)


def test_a_job_streams_its_rungs_and_says_how_it_ended(cluster: Cluster, small_demo: Path, tmp_path: Path) -> None:
    space, out = small_space(tmp_path, small_demo), tmp_path / "run"
    done = cluster.submit("cid_ray.tune", "--config", str(space), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^1_8-\w+-000: step [36]/6 ", done.stdout, re.M)) == 4 and "succeeded" in done.stdout
    assert all(counts == {"COMPLETE": 1} for counts in states(out).values())
    bad = cluster.submit("cid_ray.tune", "--config", str(space), "--set", "search.trials=0")
    assert bad.returncode != 0 and "error: `search.trials` is 0" in bad.stdout and "Traceback" not in bad.stdout
    secret = cluster.env["RAY_AUTH_TOKEN"].encode()
    assert not any(secret in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_without_the_token_nothing_is_taken(cluster: Cluster) -> None:
    refused = cluster.submit("cid_ray", token=False)
    assert refused.returncode != 0 and "token authentication is enabled" in refused.stderr
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=30)


@pytest.mark.slow
def test_a_stopped_job_is_resumed_by_another_beside_a_third(cluster: Cluster, small_demo: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    one = small_space(tmp_path, small_demo)
    out = tmp_path / "run"
    long = ["--set", "train.steps=400", "--set", "train.rungs=[0.05,1.0]"]
    begun = cluster.submit("cid_ray.tune", "--config", str(one), "--out", str(out), *long, wait=False)
    job = re.search(r"raysubmit_\w+", begun.stdout)
    assert job, begun.stdout + begun.stderr
    deadline = time.monotonic() + 200
    while not of_event(read_rows(out), "rung"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert cluster.ray("job", "stop", job.group()).returncode == 0
    assert "told to end; go on with: python -m cid_ray.tune --resume" in cluster.ray("job", "logs", job.group()).stdout
    assert any("RUNNING" in counts for counts in states(out).values())
    two = small_space(tmp_path / "beside", small_demo)
    beside = cluster.submit("cid_ray.tune", "--config", str(two), "--out", str(tmp_path / "two"), wait=False)
    resumed = cluster.submit("cid_ray.tune", "--resume", str(out))
    assert resumed.returncode == 0 and "interrupted ones go on" in resumed.stdout, resumed.stdout
    assert all(counts == {"COMPLETE": 1} for counts in states(out).values())
    other = re.search(r"raysubmit_\w+", beside.stdout)
    assert other and cluster.ray("job", "logs", "--follow", other.group()).returncode == 0
    assert all(counts == {"COMPLETE": 1} for counts in states(tmp_path / "two").values())
