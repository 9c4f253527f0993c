"""A Ray cluster of its own: `ray start --head` with 2 CPUs, a token, and the `ray job` commands."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.ports import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
COMMIT = "0123456789ab"  # what jobs are given as the git commit of their code


def free_ports() -> dict[str, int]:
    return {name: free_port() for name in PORTS}


@dataclass
class RayHead:
    """A head node on free ports; only who has its token may use it.

    Attributes:
        folder: Ray's files.
        env: the environment of its processes and of the commands below.
        ports: `ray start` option -> port.
        process: the head, once it has started.
    """

    folder: Path
    env: dict[str, str]
    ports: dict[str, int] = field(default_factory=free_ports)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['dashboard-port']}"

    @property
    def token(self) -> str:
        return self.env["RAY_AUTH_TOKEN"]

    def start(self) -> None:
        """Start the head and wait until it takes jobs."""
        process = subprocess.Popen(
            [
                RAY,
                "start",
                "--head",
                "--block",
                f"--temp-dir={self.folder}",
                "--num-cpus=2",
                *(f"--{name}={port}" for name, port in self.ports.items()),
                "--dashboard-host=127.0.0.1",
                "--disable-usage-stats",
            ],
            env=self.env,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.process = process

        def takes_jobs() -> bool:
            assert process.poll() is None, "the head has ended"
            return self.ray("job", "submit", "--no-wait", "--", "true").returncode == 0

        wait_until(takes_jobs, 200)

    def kill(self) -> None:
        """Kill the head, its workers and the drivers of its jobs, as if the machine were lost."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.kill()
        self.process.wait()

    def ray(self, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
        """`ray WORD WORD --address ... WORDS`, with another token if one is given."""
        return subprocess.run(
            [RAY, *words[:2], "--address", self.address, *words[2:]],
            env={**self.env, "RAY_AUTH_TOKEN": token or self.token},
            capture_output=True,
            text=True,
            timeout=280,
            cwd=ROOT,
            check=False,
        )

    def submit(
        self, *command: str, wait: bool = True, token: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit -- python -m COMMAND` with this repository as its working directory."""
        environment = json.dumps({"env_vars": {"CID_RAY_GIT": COMMIT}})
        options = ["--runtime-env-json", environment, "--working-dir", "."]
        options += [] if wait else ["--no-wait"]
        words = ["job", "submit", *options, "--", "python", "-m", *command]
        return self.ray(*words, token=token)

    def get(self, path: str) -> Any:
        """The dashboard's response, as its own page asks for it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.address + path, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


@contextlib.contextmanager
def ray_head(**env: str) -> Iterator[RayHead]:
    """A started head; killed at the end of the block."""
    others = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")}
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Jobs call `python`, which has to be this one.
    path = f"{Path(sys.executable).parent}:{others['PATH']}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        head = RayHead(Path(folder), {**others, **auth, "PATH": path, **env})
        try:
            head.start()
            yield head
        finally:
            head.kill()
