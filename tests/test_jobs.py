"""Contract of `ray job submit -- python -m cid_ray.tune`, against a cluster of its own that asks for a token."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from cid_ray.config import load
from cid_ray.data.table import open_table
from cid_ray.results.record import of_event, read_rows
from tests.object_store import free_port, wait_for
from tests.test_tune import space_file, states

pytestmark = pytest.mark.ray
RAY = str(Path(sys.executable).with_name("ray"))
SOURCE = Path(__file__).resolve().parent.parent
COMMIT = "0123456789ab"
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")


@dataclass
class Cluster:
    """`ray start --head` of 2 CPUs that asks for a token, on ports and in a folder of its own."""

    folder: Path
    env: dict[str, str]
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in PORTS})
    head: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    def start(self) -> None:
        ports = [f"--{name}={port}" for name, port in self.ports.items()]
        command = [
            RAY, "start", "--head", "--block", f"--temp-dir={self.folder}", "--num-cpus=2", *ports,
            "--dashboard-host=127.0.0.1", "--disable-usage-stats",
        ]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.head = subprocess.Popen(command, env=self.env, start_new_session=True, **quiet)
        deadline = time.monotonic() + 120
        while self.ray("job", "submit", "--no-wait", "--", "true").returncode:  # its agent takes a while
            assert self.head.poll() is None and time.monotonic() < deadline
            time.sleep(1)

    def kill(self) -> None:
        """As when the machine is lost: all that runs on it, the drivers of jobs too."""
        assert self.head
        for process in psutil.Process(self.head.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.head.kill()
        self.head.wait()

    def ray(self, *words: str, token: bool = True, seconds: float = 280) -> subprocess.CompletedProcess[str]:
        env = {**self.env, **({} if token else {"RAY_AUTH_TOKEN": "not-the-one"})}
        command = [RAY, *words[:2], "--address", self.address, *words[2:]]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds, cwd=SOURCE)

    def get(self, path: str) -> Any:
        """What the dashboard's own page asks for."""
        head = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        with urllib.request.urlopen(urllib.request.Request(self.address + path, headers=head), timeout=60) as answer:
            return json.load(answer)

    def submit(self, *command: str, wait: bool = True, token: bool = True) -> subprocess.CompletedProcess[str]:
        how = ["--runtime-env-json", json.dumps({"env_vars": {"CID_RAY_GIT": COMMIT}}), "--working-dir", "."]
        how += [] if wait else ["--no-wait"]
        return self.ray("job", "submit", *how, "--", "python", "-m", *command, token=token)


@contextlib.contextmanager
def heading(**env: str) -> Iterator[Cluster]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **env}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder), kept)
        try:
            found.start()
            yield found
        finally:
            found.kill()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with heading() as found:
        yield found


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
    told = [job["metadata"] for job in cluster.get("/api/jobs/") if job["metadata"].get("run") == "run"]
    fingerprint = load(out / "config.yaml").fingerprint(open_table(small_demo).fingerprint, "none")
    assert len(told) == 1
    assert told[0].items() >= {"run": "run", "ratio": "1/8 (6)", "fingerprint": fingerprint, "git": COMMIT}.items()
    assert {row["git"] for row in of_event(read_rows(out), "final")} == {COMMIT}
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


@pytest.mark.slow
def test_a_job_is_resumed_after_the_head_was_lost_and_the_cluster_remembers_it(
    small_demo: Path, tmp_path: Path
) -> None:
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not here: install Debian's redis-server")
    port = free_port()
    redis = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        with heading(RAY_REDIS_ADDRESS=f"127.0.0.1:{port}") as cluster:
            out, space = tmp_path / "run", small_space(tmp_path, small_demo)
            long = ["--set", "train.steps=400", "--set", "train.rungs=[0.05,1.0]"]
            begun = cluster.submit("cid_ray.tune", "--config", str(space), "--out", str(out), *long, wait=False)
            job = re.search(r"raysubmit_\w+", begun.stdout)
            assert job, begun.stdout + begun.stderr
            deadline = time.monotonic() + 200
            while not of_event(read_rows(out), "rung"):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            cluster.kill()
            assert any("RUNNING" in counts for counts in states(out).values())
            cluster.start()
            assert job.group() in cluster.ray("job", "list").stdout
            resumed = cluster.submit("cid_ray.tune", "--resume", str(out))
            assert resumed.returncode == 0 and "interrupted ones go on" in resumed.stdout, resumed.stdout
            assert all(counts == {"COMPLETE": 1} for counts in states(out).values())
    finally:
        redis.kill()
        redis.wait()
