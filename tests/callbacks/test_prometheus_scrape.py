"""Laws of a running search in Grafana: every query has data while it runs, none shows it after.

Ray, Prometheus on Ray's own scrape file, and the search are real. Ray reports every second instead
of every ten, so that the search can be short.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
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

from cid_ray import grafana
from cid_ray.callbacks.prometheus import STUDY_TAGS
from cid_ray.config import InputError
from cid_ray.results.records import Record, of_event, read_records
from cid_ray.storage.packaged import packaged_file
from tests.helpers.ports import free_port, wait_until
from tests.helpers.ray_head import ray_head
from tests.helpers.services import find_program, require_service
from tests.helpers.small_search import space_file

Samples = list[dict[str, Any]]  # Prometheus's response: {"metric": labels, "value": [time, text]}
Query = Callable[[str], Samples]
MISTAKEN_QUERY = 'max by (search) (ray_cid_best_moiu{search=~"$search"})'
SCRAPE_FILE = "prom_metrics_service_discovery.json"
SCRAPE_CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: ray
  file_sd_configs: [{{files: ['{file}']}}]
"""


def dashboard() -> dict[str, Any]:
    return dict(json.loads(packaged_file("cid_ray.json", "cluster/grafana").read_text()))


def dashboard_queries(*more: str) -> set[str]:
    """Every query of the dashboard and `more`, as if in one of its panels; variables at "All"."""
    content = dashboard()
    variables = content["templating"]["list"]
    found = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    found += more
    for variable in variables:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None
            metric, label = match.groups()
            found.append(f"count by ({label}) ({metric})")
    names = "|".join(variable["name"] for variable in variables)
    return {re.sub(rf"\$({names})\b", ".*", query) for query in found}


@dataclass
class ScrapedSearch:
    """A search that was observed until every query had returned data, and then interrupted."""

    ray_folder: Path  # Ray's --temp-dir
    records: list[Record]
    query: Query
    without_data: set[str]  # queries that returned no data while it ran

    def last_values(self, metric: str, *labels: str) -> dict[tuple[str, ...], float]:
        """A metric's last values by some of its labels. Prometheus keeps them after the search."""
        samples = self.query(f"last_over_time(ray_cid_{metric}[1h])")
        return {
            tuple(sample["metric"][label] for label in labels): float(sample["value"][1])
            for sample in samples
        }


@contextmanager
def running_process(
    command: list[Any], env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is terminated at the end of the block."""
    words = [str(word) for word in command]
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def running_prometheus(scrape_file: Path, folder: Path) -> Iterator[Query]:
    """A Prometheus that only this machine can reach; yields a function that queries it."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(SCRAPE_CONFIG.format(file=scrape_file))
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--log.level=error",
    ]

    def query(text: str) -> Samples:
        parameters = urllib.parse.urlencode({"query": text})
        url = f"http://127.0.0.1:{port}/api/v1/query?{parameters}"
        with urllib.request.urlopen(url, timeout=30) as response:
            return list(json.load(response)["data"]["result"])

    def is_ready() -> bool:
        try:
            return bool(query("vector(1)"))
        except OSError:
            return False

    with running_process(command):
        wait_until(is_ready, 90)
        yield query


@pytest.fixture(scope="module")
def scraped(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScrapedSearch]:
    require_service("prometheus", find_program("prometheus"))
    out = tmp_path_factory.mktemp("metrics") / "observed"
    space = space_file(
        out.parent,
        small_demo,
        trials=100,
        baselines=["supervised"],
        pruner={"name": "NopPruner"},
    )
    command = [sys.executable, "-m", "cid_ray.tune", "--config", space, "--out", out]
    command += ["--set", "train.steps=120", "--set", "train.rungs=[0.3, 1.0]", "--budget", "600"]
    with ray_head(RAY_metrics_report_interval_ms="1000") as head:
        scrape_file = head.folder / SCRAPE_FILE
        wait_until(scrape_file.exists, 90)
        with running_prometheus(scrape_file, out.parent) as query:
            env = {**head.env, "RAY_ADDRESS": f"127.0.0.1:{head.ports['port']}"}
            without_data = dashboard_queries(MISTAKEN_QUERY)
            with running_process(command, env) as tune:
                while tune.poll() is None and (
                    without_data & dashboard_queries() or not query("ray_cid_trial_running == 0")
                ):
                    without_data = {text for text in without_data if not query(text)}
                    time.sleep(0.5)
                tune.send_signal(signal.SIGINT)
                assert tune.wait(120) == 130
            yield ScrapedSearch(head.folder, read_records(out), query, without_data)


def test_dashboard_every_panel_has_query_and_description() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    for panel in panels:
        assert panel["title"] and panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert panel["datasource"] == "${datasource}"


@pytest.mark.ray
@pytest.mark.process
def test_dashboard_while_search_runs_every_query_but_mistaken_one_has_data(
    scraped: ScrapedSearch,
) -> None:
    assert scraped.without_data == dashboard_queries(MISTAKEN_QUERY) - dashboard_queries() != set()


@pytest.mark.ray
@pytest.mark.process
def test_metrics_after_search_show_no_running_trial(scraped: ScrapedSearch) -> None:
    ran = scraped.query("max_over_time(ray_cid_trial_running[1h]) == 1")
    assert len(ran) > 2
    assert set(scraped.last_values("trial_running", "trial").values()) == {0}
    trials = scraped.last_values("trials", "state", *STUDY_TAGS)
    assert sum(count for (state, *_), count in trials.items() if state == "running") == 0
    # Outdated gauges disappear.
    wait_until(lambda: not scraped.query('{__name__=~"ray_cid_.*"}'), 90)


@pytest.mark.ray
@pytest.mark.process
def test_metrics_last_values_equal_records(scraped: ScrapedSearch) -> None:
    finals = of_event(scraped.records, "final")
    finished = of_event(scraped.records, "trial")
    best: dict[tuple[str, ...], float] = {}
    for record in finals:
        study = (record["ratio"], record["method"])
        best[study] = max(best.get(study, 0), record["val/miou_teacher"])
    assert scraped.last_values("best_miou", *STUDY_TAGS) == pytest.approx(best)
    states = Counter[str]()
    for (state, *_), count in scraped.last_values("trials", "state", *STUDY_TAGS).items():
        states[state] += int(count)
    planned = scraped.last_values("trials_planned")
    assert planned == {(): states.total()} == {(): 2 * (1 + 100)}
    assert states["complete"] == len(finished) == states.total() - states["waiting"]
    images = scraped.last_values("images_seen", *STUDY_TAGS)
    # These studies have one trial, so the sum over trials is that trial's own.
    single = {
        (record["ratio"], record["method"]): record["images_seen"]
        for record in finals
        if record["method"] == "supervised"
    }
    assert single and single.items() <= images.items()
    assert set(scraped.last_values("elapsed_seconds", "search")) == {("observed",)}


@pytest.mark.ray
@pytest.mark.process
def test_grafana_command_writes_dashboard_where_running_ray_reads_it(
    scraped: ScrapedSearch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grafana.main(["--temp-dir", str(scraped.ray_folder)]) == 0
    metrics = scraped.ray_folder / "session_latest" / "metrics"
    providers_file = metrics / "grafana/provisioning/dashboards/default.yml"
    provider = yaml.safe_load(providers_file.read_text())["providers"][0]
    written = Path(provider["options"]["path"]) / "cid_ray.json"
    assert str(written) in capsys.readouterr().out
    assert json.loads(written.read_text()) == dashboard()


def test_grafana_command_without_ray_needs_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Ray session runs below .*ray start --head.*--to DIR"):
        grafana.main(["--temp-dir", str(tmp_path)])
    with pytest.raises(InputError, match="absent is not a folder"):
        grafana.main(["--to", str(tmp_path / "absent")])
    assert grafana.main(["--to", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "cid_ray.json").read_text()) == dashboard()
