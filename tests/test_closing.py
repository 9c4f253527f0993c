"""Law: winners whose tests need a crew of workers each are tested one after the other, or the crews starve."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cid_ray import closing
from cid_ray.config import override
from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.run.display import Display
from cid_ray.run.fleet import Resources
from cid_ray.search.journal import Hold
from cid_ray.search.watch import Watch
from tests.chaos import RATIOS, simulated_config, simulated_row, uninterrupted


def scored(log: Path, root: str, cpus: float, task: dict[str, Any]) -> Iterator[Row]:
    for what in ("begins", "ends"):
        with log.open("a") as file:
            file.write(f"{task['name']} {what}\n")
        time.sleep(0.5)
    config = override(json.loads(task["config"]), {})
    yield {"event": "final", **simulated_row(config, task["name"], config.train.steps)}


@pytest.mark.ray
def test_the_tests_of_crews_follow_one_another(ray_cluster: str, tmp_path: Path) -> None:
    config = override(
        simulated_config(trials=3).model_dump(mode="json"),
        {"scale.workers": 2, "data.batch_size": 8, "data.batch_size_u": 8},
    )
    studies = uninterrupted(tmp_path, config)
    with Hold(tmp_path) as hold, Display(tmp_path, studies.total(), "trial") as display:
        watch = Watch(studies.home, hold, studies, display, None)
        closing.test_winners(watch, Resources(0.01, 0), functools.partial(scored, tmp_path / "tests.log"))
    told = [line.split() for line in (tmp_path / "tests.log").read_text().splitlines()]
    assert [what for _, what in told] == ["begins", "ends"] * len(RATIOS)
    assert {name for name, _ in told} == {row["run"] for row in of_event(read_rows(tmp_path), "final")}
