"""A running search as Grafana would show it: real Ray, a real Prometheus on Ray's own scrape file, a real search.

Ray reports every second here instead of every ten, so that the search can be short; the rest is a plain `ray start`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cid_ray import cli
from cid_ray.results.record import Row, read_rows
from tests.test_tune import space_file

Samples = list[dict[str, Any]]  # what Prometheus answers: {"metric": labels, "value": [instant, text]}
Ask = Callable[[str], Samples]
SCRAPES = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: ray
  file_sd_configs: [{{files: ['{file}']}}]
"""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(cli.shipped("cid_ray.json", "cluster/grafana").read_text()))


def queries(board: dict[str, Any]) -> list[str]:
    """Every query of every panel and of every variable, with each variable at "All"."""
    names = [variable["name"] for variable in board["templating"]["list"]]
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            found.append(f"count by ({label}) ({metric})")
    return [re.sub(rf"\$({'|'.join(names)})\b", ".*", query) for query in found]


def unanswered(board: dict[str, Any], ask: Ask) -> set[str]:
    """The queries that return no data."""
    return {query for query in queries(board) if not ask(query)}


@dataclass
class Scene:
    """A search that was watched from its first row to its end."""

    env: dict[str, str]
    folder: Path  # Ray's --temp-dir
    out: Path
    ask: Ask
    silent: set[str] = field(default_factory=set)  # queries that returned no data while it ran
    planted: set[str] = field(default_factory=set)  # the same of a dashboard with a wrong name

    @property
    def rows(self) -> list[Row]:
        return read_rows(self.out)

    def last(self, metric: str) -> Samples:
        """A metric's last values, which Prometheus keeps after the search is gone."""
        return self.ask(f"last_over_time(ray_cid_{metric}[1h])")


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def until(true: Callable[[], Any], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} after {seconds} seconds"
        time.sleep(0.5)


@contextmanager
def process(command: list[Any], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and with it what it has started and waits for."""
    started = subprocess.Popen(
        [str(part) for part in command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(60)
        except subprocess.TimeoutExpired:
            started.kill()


@contextmanager
def ray_head(folder: Path, env: dict[str, str]) -> Iterator[str]:
    """A head of 2 CPUs with a folder and ports of its own; its address."""
    ports = {
        f"--{name}={free_port()}"
        for name in ("dashboard-port", "metrics-export-port", "ray-client-server-port", "dashboard-agent-listen-port")
    }
    port, ray = free_port(), Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--temp-dir={folder}", *ports]
    with process([*command, "--disable-usage-stats"], env):
        until((folder / "prom_metrics_service_discovery.json").exists, "Ray wrote no scrape file")
        yield f"127.0.0.1:{port}"


@contextmanager
def prometheus(scrape_file: Path, folder: Path) -> Iterator[Ask]:
    """A Prometheus on this machine only; a function that asks it."""
    port, settings = free_port(), folder / "prometheus.yml"
    settings.write_text(SCRAPES.format(file=scrape_file))
    own = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}", "--log.level=error"]

    def ask(query: str) -> Samples:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])

    def ready() -> bool:
        try:
            return bool(ask("vector(1)"))
        except OSError:
            return False

    with process(["prometheus", f"--config.file={settings}", *own]):
        until(ready, "Prometheus does not answer")
        yield ask


@pytest.fixture(scope="module")
def scene(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    out = tmp_path_factory.mktemp("metrics") / "watched"
    space = space_file(out.parent, small_demo, trials=2, baselines=["supervised"], pruner={"name": "NopPruner"})
    changes = ["--set", "train.steps=60", "--set", "train.rungs=[0.3, 1.0]", "--budget", "600"]
    command = [sys.executable, "-m", "cid_ray.tune", "--config", space, "--out", out, *changes]
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env["RAY_metrics_report_interval_ms"] = "1000"
    with tempfile.TemporaryDirectory(prefix="cid-") as name:  # pytest's are too long for Ray's sockets
        folder = Path(name)
        with (
            ray_head(folder, env) as address,
            prometheus(folder / "prom_metrics_service_discovery.json", out.parent) as ask,
        ):
            env["RAY_ADDRESS"] = address
            found = Scene(env, folder, out, ask, set(queries(dashboard())))
            with process(command, env) as tune:
                while tune.poll() is None:
                    found.silent = {query for query in found.silent if not ask(query)}
                    time.sleep(0.5)
            assert tune.returncode == 0
            yield found


@pytest.mark.ray
def test_every_query_of_every_panel_returns_data_while_a_search_runs(scene: Scene) -> None:
    assert scene.silent == set()
