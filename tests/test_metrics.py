"""A running search as Grafana would show it: real Ray, a real Prometheus on Ray's own scrape file, a real search.

Ray reports every second here instead of every ten, so that the search can be short; the rest is a plain `ray start`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cid_ray import cli, grafana
from cid_ray.config import InputError
from cid_ray.results.record import Row, of_event, read_rows
from tests.object_store import free_port
from tests.test_tune import space_file

Samples = list[dict[str, Any]]  # what Prometheus answers: {"metric": labels, "value": [instant, text]}
Ask = Callable[[str], Samples]
ARM = ("ratio", "method")
MISTAKEN = 'max by (run) (ray_cid_best_moiu{run=~"$run"})'
SCRAPE_FILE = "prom_metrics_service_discovery.json"
SCRAPES = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: ray
  file_sd_configs: [{{files: ['{file}']}}]
"""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(cli.shipped("cid_ray.json", "cluster/grafana").read_text()))


def queries(*more: str) -> set[str]:
    """Every query of every panel and of every variable, and `more` of a panel that is planted; variables at "All"."""
    board = dashboard()
    board["panels"].append({"targets": [{"expr": expr} for expr in more]})
    names = [variable["name"] for variable in board["templating"]["list"]]
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            found.append(f"count by ({label}) ({metric})")
    return {re.sub(rf"\$({'|'.join(names)})\b", ".*", query) for query in found}


@dataclass
class Scene:
    """A search that was watched until there was nothing left to see, and then interrupted."""

    folder: Path  # Ray's --temp-dir
    rows: list[Row]
    ask: Ask
    silent: set[str]  # queries that returned no data while it ran

    def last(self, metric: str, *labels: str) -> dict[tuple[str, ...], float]:
        """A metric's last values by some of its labels; Prometheus keeps them when the search is gone."""
        found = self.ask(f"last_over_time(ray_cid_{metric}[1h])")
        return {tuple(one["metric"][label] for label in labels): float(one["value"][1]) for one in found}


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
        until((folder / SCRAPE_FILE).exists, "Ray wrote no scrape file")
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
    space = space_file(out.parent, small_demo, trials=100, baselines=["supervised"], pruner={"name": "NopPruner"})
    changes = ["--set", "train.steps=120", "--set", "train.rungs=[0.3, 1.0]", "--budget", "600"]
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
            silent = queries(MISTAKEN)
            with process(command, env) as tune:
                while tune.poll() is None and (silent & queries() or not ask("ray_cid_trial_running == 0")):
                    silent = {query for query in silent if not ask(query)}
                    time.sleep(0.5)
                tune.send_signal(signal.SIGINT)
                assert tune.wait(120) == 130
            yield Scene(folder, read_rows(out), ask, silent)


def test_every_panel_asks_something_and_says_what_it_shows() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    for panel in panels:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"] and all(t["expr"] and t["legendFormat"] for t in panel["targets"])
        assert panel["datasource"] == "${datasource}"


@pytest.mark.ray
def test_while_a_search_runs_every_query_returns_data_and_only_a_mistaken_one_does_not(scene: Scene) -> None:
    assert scene.silent == queries(MISTAKEN) - queries() != set()


@pytest.mark.ray
def test_after_the_end_no_trial_is_shown_as_running(scene: Scene) -> None:
    ever = scene.ask("max_over_time(ray_cid_trial_running[1h]) == 1")
    assert len(ever) > 2
    assert set(scene.last("trial_running", "trial").values()) == {0}
    assert sum(v for (state, _, _), v in scene.last("trials", "state", *ARM).items() if state == "running") == 0
    until(lambda: not scene.ask('{__name__=~"ray_cid_.*"}'), "something is still shown as if it were so")


@pytest.mark.ray
def test_the_last_values_are_those_of_the_record(scene: Scene) -> None:
    finals, ended = of_event(scene.rows, "final"), of_event(scene.rows, "trial")
    best: dict[tuple[str, ...], float] = {}
    for row in finals:
        arm = (row["ratio"], row["method"])
        best[arm] = max(best.get(arm, 0), row["val/miou_teacher"])
    assert scene.last("best_miou", *ARM) == pytest.approx(best)
    states: Counter[str] = Counter()
    for (state, *_), count in scene.last("trials", "state", *ARM).items():
        states[state] += int(count)
    assert {(): states.total()} == scene.last("trials_planned") == {(): 2 * (1 + 100)}
    assert states["complete"] == len(ended) == states.total() - states["waiting"]
    images = scene.last("images_seen", *ARM)
    alone = {(row["ratio"], row["method"]): row["images_seen"] for row in finals if row["method"] == "supervised"}
    assert alone and alone.items() <= images.items()
    assert set(scene.last("spent_seconds", "run")) == {("watched",)}


@pytest.mark.ray
def test_the_dashboard_is_put_where_the_running_rays_grafana_looks(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grafana.main(["--temp-dir", str(scene.folder)]) == 0
    metrics = scene.folder / "session_latest" / "metrics"
    provider = yaml.safe_load((metrics / "grafana/provisioning/dashboards/default.yml").read_text())["providers"][0]
    put = Path(provider["options"]["path"]) / "cid_ray.json"
    assert str(put) in capsys.readouterr().out
    assert json.loads(put.read_text()) == dashboard()


def test_where_no_ray_runs_the_dashboard_goes_where_it_is_told_to(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Ray session runs below .*ray start --head.*--to DIR"):
        grafana.main(["--temp-dir", str(tmp_path)])
    with pytest.raises(InputError, match="absent is not a folder"):
        grafana.main(["--to", str(tmp_path / "absent")])
    assert grafana.main(["--to", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "cid_ray.json").read_text()) == dashboard()
