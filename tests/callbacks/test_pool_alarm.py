"""Laws of the alarm: it speaks during the search, once for a run, and never of what is noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.harness.chaos import simulated_config, simulated_record
from cid_ray.callbacks.base import Callback
from cid_ray.callbacks.pool_alarm import PoolAlarm, hurting_runs
from cid_ray.results.records import of_event, read_records
from cid_ray.results.summary import RatioSummary, summarize
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


def hurting(planned: int = 3, **means: Any) -> dict[str, str]:
    (summary,) = summarize(repeated_search(**means))
    return hurting_runs(summary, planned)


def test_method_below_supervised_beyond_noise_is_named_with_its_numbers() -> None:
    found = hurting(mean_teacher=44.0)
    assert list(found) == ["1_16-mean_teacher-001"]
    text = found["1_16-mean_teacher-001"]
    assert text == (
        "1/16 (16): the pool is hurting so far: mean teacher is 4.00 below supervised only on val "
        "after 3 of 3 repeats of 1_16-mean_teacher-001 (p < 0.001, corrected for 2 looks)"
    )


@pytest.mark.parametrize("means", [{}, {"mean_teacher": 47.9}, {"repeats": 1, "cid": 30.0}])
def test_gain_noise_and_a_single_repeat_raise_no_alarm(means: dict[str, Any]) -> None:
    assert hurting(**means) == {}


def grown(scores: NDArray[np.float64]) -> RatioSummary:
    """Supervised and mean teacher with some repeats; scores[2, repeats] on val."""
    summary = RatioSummary("1/16", "1/16 (16)", 16, "val/miou_teacher")
    for method, own in zip(("supervised", "mean_teacher"), scores, strict=True):
        summary.rungs[method] = [{"method": method}]
        summary.repeats[method] = [
            {"repeat_index": i, "val/miou_teacher": score} for i, score in enumerate(own)
        ]
    return summary


def test_many_looks_at_equal_methods_raise_few_false_alarms() -> None:
    """A two-sided 5 % lets 2.5 % say that the pool hurts; uncorrected looks let more."""
    rng = np.random.default_rng(0)
    planned = 8
    alarms = {planned: 0, 2: 0}  # with the correction, and with that for a single look
    searches = 400
    for scores in rng.normal(50, 1, (searches, 2, planned)):
        looks = [grown(scores[:, :repeats]) for repeats in range(2, planned + 1)]
        for said in alarms:
            alarms[said] += any(hurting_runs(look, said) for look in looks)
    assert alarms[planned] / searches <= 0.025 < 0.05 < alarms[2] / searches


def test_alarm_looks_when_all_candidates_have_one_more_repeat(tmp_path: Path) -> None:
    """Mean teacher is repeated before CID, whose second repeat the look waits for."""
    said_after = alarms_of(tmp_path / "run", "mean_teacher", ["supervised", "mean_teacher"])
    first = next(name for name, count in said_after if count)
    assert first.endswith("-repeat2") and "-cid-" in first


def test_alarm_comes_before_the_search_ends_and_once(tmp_path: Path) -> None:
    """CID trials lose ten points: said after the second repeat, not again after the third."""
    said_after = alarms_of(tmp_path / "run", "cid", ["supervised"])
    counts = [count for _, count in said_after]
    assert counts[-1] == 1 and counts == sorted(counts)
    assert said_after[counts.index(1)][0].endswith("-repeat2")
    assert of_event(read_records(tmp_path / "run"), "trial")


def alarms_of(folder: Path, loser: str, baselines: list[str]) -> list[tuple[str, int]]:
    """The trials of a search where a method loses ten points, each with the alarms until then."""
    changes: dict[str, Any] = {
        "search.ratios": ["1/8"],
        "search.baselines": baselines,
        "search.repeats.n": 3,
    }
    with Search.open(simulated_config(trials=1, **changes), RunDir(folder)) as search:
        heard = Messages()
        search.add_callback(heard)
        search.add_callback(PoolAlarm())
        said_after = []
        while (trial := search.next_trial()) is not None:
            for step in trial.config.train.rung_steps:
                record = simulated_record(trial.config, trial.name, step)
                if trial.key.method == loser:
                    record["val/miou_teacher"] -= 10
                search.report({"event": "rung", **record})
            search.report({"event": "final", **record})
            said_after.append((trial.name, "".join(heard.texts).count("the pool is hurting")))
    return said_after
