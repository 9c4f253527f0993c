"""Contract: what trials took is read from records as the training loop writes them.

References are records of made-up runs with known seconds, and a real search in this process.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from cid_ray.config import InputError
from cid_ray.planning.trial_costs import TrialCost, TrialCosts, read_trial_costs
from cid_ray.results.records import Record, read_records
from tests.helpers import records as made_up
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.simulated_plans import planned_config

STEPS = 100
RUNGS = (0.5, 1.0)
SCORE_S = 2.0  # scoring val at a rung
TRAIN_S = (10.0, 30.0)  # seconds of training until each rung
ANY = Random(0)


def trial(method: str, number: int, rungs: int, state: str | None, count: int = 8) -> list[Record]:
    """The records of a trial that reached some rungs; state None: it still runs."""
    found = []
    for index in range(rungs):
        step = int(RUNGS[index] * STEPS)
        # `seconds` is read before val is scored at this rung
        seconds = TRAIN_S[index] + index * SCORE_S
        record = made_up.rung(method, count, number, step, 40.0)
        found.append({**record, "seconds": seconds, "step": step, "steps": STEPS})
    if state == "complete":
        record = made_up.untested_final(method, count, number, 40.0)
        seconds = TRAIN_S[-1] + len(RUNGS) * SCORE_S
        found.append({**record, "seconds": seconds, "step": STEPS, "steps": STEPS})
    if state:
        fields = made_up.common_fields(method, count, number)
        found.append({"event": "trial", **fields, "state": state, "reason": "", "timestamp": 1.0})
    return found


def run_of(*trials: list[Record]) -> list[Record]:
    return [record for records in trials for record in records]


def read(records: list[Record], steps: int = STEPS, rungs: tuple[float, ...] = RUNGS) -> TrialCosts:
    changes: dict[str, Any] = {"train.steps": steps, "train.rungs": list(rungs)}
    config = planned_config(**changes)
    return read_trial_costs(records, config, "runs/made-up")


def test_rung_is_over_when_val_is_scored() -> None:
    costs = read(run_of(trial("cid", 0, 2, "complete"), trial("cid", 1, 1, "pruned")))
    assert costs.trials["1/8", "cid", False] == [
        TrialCost((12.0, 34.0), True),
        TrialCost((12.0,), False),
    ]
    [cid] = costs.by_method()
    assert cid == {"method": "cid", "trials": 2, "seconds": 34.0, "ended_early": [0.5, 0.0]}


def test_other_number_of_steps_scales_training_and_not_scoring() -> None:
    costs = read(run_of(trial("cid", 0, 2, "complete")), steps=10 * STEPS)
    assert costs.trials["1/8", "cid", False] == [TrialCost((102.0, 304.0), True)]
    assert costs.recorded_steps == STEPS


def test_trial_that_still_runs_is_left_out() -> None:
    costs = read(run_of(trial("cid", 0, 2, "complete"), trial("cid", 1, 1, None)))
    assert costs.by_method()[0]["trials"] == 1


def test_run_without_a_trial_that_ended_is_refused() -> None:
    with pytest.raises(InputError, match="runs/made-up has no trial that has ended"):
        read(trial("cid", 0, 1, None))


def test_other_rungs_are_refused_with_both_in_the_message() -> None:
    with pytest.raises(InputError, match=r"rungs at 0\.5, 1 .* train\.rungs=\[0\.25, 1\.0\]"):
        read(trial("cid", 0, 2, "complete"), rungs=(0.25, 1.0))


def test_method_without_trials_is_refused_and_other_ratio_is_borrowed() -> None:
    costs = read(run_of(trial("cid", 0, 2, "complete")))
    assert costs.draw("1/16", "cid", False, ANY) == TrialCost((12.0, 34.0), True)
    with pytest.raises(InputError, match=r"has no trial of pool_bn.*search\.baselines"):
        costs.draw("1/8", "pool_bn", False, ANY)


def test_repeat_is_never_a_pruned_trial() -> None:
    costs = read(run_of(trial("cid", 0, 2, "complete"), trial("cid", 1, 1, "pruned")))
    drawn = {costs.draw("1/8", "cid", True, Random(seed)) for seed in range(20)}
    assert drawn == {TrialCost((12.0, 34.0), True)}
    only_pruned = read(trial("cid", 1, 1, "pruned"))
    with pytest.raises(InputError, match="has no completed trial of cid"):
        only_pruned.draw("1/8", "cid", True, ANY)


def test_deaths_per_hour_count_retries_against_the_hours_of_all_trials() -> None:
    retry = {
        "event": "retry",
        **made_up.common_fields("cid", 8, 0),
        "attempt": 1,
        "reason": "killed",
        "timestamp": 1.0,
    }
    costs = read([*trial("cid", 0, 2, "complete"), retry])
    assert costs.deaths_per_hour == pytest.approx(3600 / 34)
    assert read(trial("cid", 0, 2, "complete")).deaths_per_hour == 0


def test_scaled_costs_keep_deaths_per_trial() -> None:
    costs = TrialCosts({("1/8", "cid", False): [TrialCost((2.0, 4.0), True)]}, 6.0, 3.0, "run", 1)
    slow = costs.scaled(2)
    assert slow.trials["1/8", "cid", False] == [TrialCost((4.0, 8.0), True)]
    assert (slow.test_s, slow.deaths_per_hour) == (12.0, 1.5)


def test_costs_of_kept_run_are_its_own_seconds() -> None:
    records = read_records(KEPT_RUN)
    finals = [record for record in records if record["event"] == "final"]
    steps = finals[0]["steps"]
    rungs = sorted({record["step"] / steps for record in records if record["event"] == "rung"})
    config = planned_config(**{"train.steps": steps, "train.rungs": rungs})
    costs = read_trial_costs(records, config, "kept")
    complete = sorted(
        cost.ends[-1] for found in costs.trials.values() for cost in found if cost.complete
    )
    # An end is the final record's own time, up to rounding.
    assert complete == pytest.approx(sorted(final["seconds"] for final in finals), rel=0.02)
    states = [record["state"] for record in records if record["event"] == "trial"]
    assert sum(one["trials"] for one in costs.by_method()) == len(states)


def test_costs_of_real_search_are_read(halfway: Path) -> None:
    records = read_records(halfway)
    header = next(record for record in records if record["event"] == "rung")
    rungs = sorted({r["step"] / header["steps"] for r in records if r["event"] == "rung"})
    config = planned_config(**{"train.steps": header["steps"], "train.rungs": rungs})
    costs = read_trial_costs(records, config, str(halfway))
    ended = [record for record in records if record["event"] == "trial"]
    assert sum(one["trials"] for one in costs.by_method()) == len(ended)
    for found in costs.trials.values():
        for cost in found:
            assert list(cost.ends) == sorted(cost.ends) and cost.ends[0] > 0
