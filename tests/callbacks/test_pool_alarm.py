"""Laws of the alarm: it speaks during the search, once for a run, and never of what is noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.chaos import simulated_config, simulated_record
from cid_ray.callbacks.base import Callback
from cid_ray.callbacks.pool_alarm import PoolAlarm, hurting_runs
from cid_ray.results.records import of_event, read_records
from cid_ray.results.summary import summarize
from cid_ray.search.controller import Search
from cid_ray.storage.run_dir import RunDir
from tests.helpers.records import repeated_search


class Messages(Callback):
    """Keeps what a user is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_message(self, text: str, important: bool = False) -> None:
        assert important or "hurting" not in text
        self.texts.append(text)


def hurting(**means: Any) -> dict[str, str]:
    (summary,) = summarize(repeated_search(**means))
    return hurting_runs(summary)


def test_method_below_supervised_beyond_noise_is_named_with_its_numbers() -> None:
    found = hurting(mean_teacher=44.0)
    assert list(found) == ["1_16-mean_teacher-001"]
    text = found["1_16-mean_teacher-001"]
    assert text.startswith("1/16 (16): the pool is hurting: mean teacher is 4.00 below")
    assert "p < 0.001, 3 repeats" in text


@pytest.mark.parametrize("means", [{}, {"mean_teacher": 47.9}, {"repeats": 1, "cid": 30.0}])
def test_gain_noise_and_a_single_repeat_raise_no_alarm(means: dict[str, Any]) -> None:
    assert hurting(**means) == {}


def test_alarm_comes_before_the_search_ends_and_once(tmp_path: Path) -> None:
    """CID trials lose ten points: said after the second repeat, not again after the third."""
    changes: dict[str, Any] = {
        "search.ratios": ["1/8"],
        "search.baselines": ["supervised"],
        "search.repeats.n": 3,
    }
    with Search.open(simulated_config(trials=1, **changes), RunDir(tmp_path / "run")) as search:
        heard = Messages()
        search.add_callback(heard)
        search.add_callback(PoolAlarm())
        said_after = []
        while (trial := search.next_trial()) is not None:
            for step in trial.config.train.rung_steps:
                record = simulated_record(trial.config, trial.name, step)
                if trial.key.method == "cid":
                    record["val/miou_teacher"] -= 10
                search.report({"event": "rung", **record})
            search.report({"event": "final", **record})
            said_after.append((trial.name, "".join(heard.texts).count("the pool is hurting")))
    counts = [count for _, count in said_after]
    assert counts[-1] == 1 and counts == sorted(counts)
    first = said_after[counts.index(1)][0]
    assert first.endswith("-repeat2")
    assert of_event(read_records(tmp_path / "run"), "trial")
