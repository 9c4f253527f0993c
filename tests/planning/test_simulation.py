"""Laws of a simulated search: what any number of nodes must add up to, and in which order trials
run. References are sums of known seconds, and the trial queue of a real search.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cid_ray.planning.fleet import Fleet, NodeGroup
from cid_ray.planning.plan import studies_of
from cid_ray.planning.simulated_search import SimulatedSearch, SimulatedTrial
from cid_ray.planning.simulation import Overheads
from tests.helpers.simulated_plans import (
    NO_OVERHEADS,
    RATIOS,
    known_costs,
    planned_config,
    simulate,
    simulation,
    workers,
)
from tests.helpers.simulated_studies import kill_search, next_trial, open_search, run_trial

REPEATS: dict[str, Any] = {"search.repeats.n": 2, "search.repeats.top": 1}
SPOT: dict[str, Any] = {"spot": True, "usd_per_hour": 3.6}
SEEDS = range(3)


def all_trials(**changes: Any) -> list[SimulatedTrial]:
    """Every trial of a search, as its simulation on one slot hands them out."""
    found = []
    config = planned_config(**changes)
    search = SimulatedSearch(config, studies_of(config), known_costs(test_s=3.0), 0)
    while (trial := search.next_trial()) is not None:
        found.append(trial)
        search.finish(trial, 0.0)
    assert search.is_done()
    return found


# ---- makespan ----


@pytest.mark.parametrize("changes", [{}, REPEATS], ids=["", "repeats"])
def test_one_slot_without_overheads_takes_the_sum_of_durations(changes: dict[str, Any]) -> None:
    config = planned_config(**changes)
    outcome = simulate(workers(1), config, known_costs(test_s=3.0))
    assert outcome.makespan_s == pytest.approx(sum(t.ends[-1] for t in all_trials(**changes)))
    assert outcome.idle_s == pytest.approx(0.0, abs=1e-6)


def test_a_slot_for_each_trial_takes_the_longest_trial() -> None:
    outcome = simulate(workers(1000))
    assert outcome.makespan_s == pytest.approx(max(t.ends[-1] for t in all_trials()))


def test_unlimited_nodes_take_the_longest_chain() -> None:
    """A CID trial, its repeat with a test, and the test of the winner."""
    outcome = simulate(workers(1000), planned_config(**REPEATS), known_costs(test_s=3.0))
    assert outcome.makespan_s == pytest.approx(40 + (40 + 3) + 3)
    assert [what for what, _ in outcome.chain] == [
        "search start",
        "cid",
        "repeats of cid",
        "test of winners",
        "report",
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_more_nodes_never_take_longer(seed: int) -> None:
    """Without repeats: with waits for each other even a real list schedule may get longer."""
    config = planned_config(trials=9)
    times = replace(Overheads(), report_s=1.0)
    for always_on in (True, False):
        spans = []
        for nodes in (1, 2, 3, 4, 7, 12, 40):
            fleet = workers(nodes, always_on=nodes if always_on else 0)
            spans.append(simulate(fleet, config, times=times, seed=seed).makespan_s)
        assert spans == sorted(spans, reverse=True)
        assert spans[0] > spans[-1]


def test_max_concurrent_trials_limits_a_large_cluster() -> None:
    fleet = replace(workers(1000), max_concurrent=2)
    assert simulate(fleet).makespan_s == simulate(workers(2)).makespan_s


def test_winners_are_tested_side_by_side_however_few_trials_may_run() -> None:
    fleet = replace(workers(2), max_concurrent=1)
    without = simulate(fleet).makespan_s
    assert simulate(fleet, costs=known_costs(test_s=3.0)).makespan_s == without + 2 * 2 * 3 + 3


def test_overheads_of_one_slot_add_up() -> None:
    times = Overheads(
        search_start_s=7, process_start_s=5, trial_start_s=2, driver_s=0.5, report_s=3
    )
    trials = all_trials()
    tests = [trial for trial in trials if trial.key is None]
    events = sum(1 + len(trial.ends) for trial in trials)
    starts = 5 * (1 + len(tests)) + 2 * (len(trials) - 1 - len(tests))
    work = sum(trial.ends[-1] for trial in trials)
    outcome = simulate(workers(1), costs=known_costs(test_s=3.0), times=times)
    assert outcome.makespan_s == pytest.approx(7 + 3 + work + starts + 0.5 * events)


def test_one_driver_is_the_limit_of_a_large_cluster() -> None:
    times = replace(NO_OVERHEADS, driver_s=10.0)
    trials = all_trials()
    events = sum(1 + len(trial.ends) for trial in trials)
    outcome = simulate(workers(1000), costs=known_costs(test_s=3.0), times=times)
    assert outcome.makespan_s >= 10.0 * events


# ---- cost and conservation ----


@pytest.mark.parametrize("rate", [0.0, 20.0])
@pytest.mark.parametrize("always_on", [True, False])
@pytest.mark.parametrize("slots", [1, 3])
def test_busy_and_idle_are_what_is_paid(rate: float, always_on: bool, slots: int) -> None:
    times = replace(Overheads(), preemptions_per_hour=rate, idle_timeout_s=30.0)
    for seed in SEEDS:
        fleet = workers(3, slots, always_on=3 if always_on else 0, **SPOT)
        config = planned_config(9, **REPEATS)
        outcome = simulate(fleet, config, known_costs(2.0), times, seed)
        paid = slots * sum(outcome.node_s.values())
        assert outcome.busy_s + outcome.idle_s == pytest.approx(paid)
        assert outcome.busy_s > 0 and outcome.idle_s > 0
        assert sum(seconds for _, seconds in outcome.chain) == pytest.approx(outcome.makespan_s)


def test_cost_is_node_hours_times_price() -> None:
    head = NodeGroup("head", 1, 1, 0, usd_per_hour=1.0)
    worker = NodeGroup("worker", 4, 4, 1, gpus=2, usd_per_hour=10.0)
    outcome = simulate(Fleet((worker, head), 4))
    hours = outcome.makespan_s / 3600
    assert outcome.usd == pytest.approx(4 * 10 * hours + hours)
    assert outcome.gpu_hours == pytest.approx(8 * hours)
    assert outcome.node_hours == pytest.approx(5 * hours)


def test_one_unknown_price_makes_the_cost_unknown() -> None:
    head = NodeGroup("head", 1, 1, 0)
    worker = NodeGroup("worker", 2, 2, 1, usd_per_hour=10.0)
    assert simulate(Fleet((worker, head), 2)).usd is None


def test_started_nodes_are_paid_from_their_order_to_their_timeout() -> None:
    times = replace(NO_OVERHEADS, autoscaler_s=5.0, node_start_s=100.0, idle_timeout_s=60.0)
    config = planned_config(1, **{"search.baselines": [], "search.ratios": ["1/8"]})
    outcome = simulate(workers(50, always_on=0), config, known_costs(test_s=0.0), times)
    [paid_s] = outcome.node_s.values()  # of the only node that the only trial needs
    trial_s = outcome.makespan_s - 105
    assert trial_s in (15.0, 40.0)
    assert paid_s == pytest.approx(100 + trial_s + 60)


def test_nodes_idle_for_long_are_given_back_and_started_again() -> None:
    """One ratio ends early; its nodes go, and come back for the repeats of the other."""
    times = replace(NO_OVERHEADS, node_start_s=1.0, idle_timeout_s=5.0)
    config = planned_config(4, **REPEATS)
    short = simulate(workers(20, always_on=0), config, times=times)
    long = simulate(workers(20, always_on=0), config, times=replace(times, idle_timeout_s=10_000.0))
    assert short.node_hours < long.node_hours
    assert short.busy_s == pytest.approx(long.busy_s)


# ---- losses ----


def test_rate_of_zero_is_no_preemption_and_on_demand_nodes_have_none() -> None:
    often = replace(NO_OVERHEADS, preemptions_per_hour=100.0)
    safe = simulate(workers(3))
    assert simulate(workers(3, spot=True)) == replace_groups(safe, spot=True)
    assert simulate(workers(3), times=often) == safe
    assert safe.preemptions == safe.lost_s == safe.failed == 0


def replace_groups(outcome: Any, **fields: Any) -> Any:
    groups = {replace(group, **fields): s for group, s in outcome.node_s.items()}
    return replace(outcome, node_s=groups)


def test_preempted_trials_run_again_from_their_last_checkpoint() -> None:
    config = planned_config(9, **{"search.retries": 1000})
    fleet = workers(3, always_on=0, **SPOT)
    times = replace(NO_OVERHEADS, preemptions_per_hour=60.0, node_start_s=2.0)
    safe = simulate(fleet, config)
    lossy = simulate(fleet, config, times=times)
    often = simulate(fleet, config, times=replace(times, checkpoint_every_s=1.0))
    assert lossy.preemptions > 5 and lossy.failed == 0
    assert lossy.lost_s > often.lost_s > 0
    # All work is done once, and what was lost once more.
    assert lossy.busy_s == pytest.approx(safe.busy_s + lossy.lost_s)
    assert often.busy_s == pytest.approx(safe.busy_s + often.lost_s)


def test_trial_fails_after_its_retries() -> None:
    config = planned_config(4, **{"search.retries": 0})
    outcome = simulate(workers(2), config, known_costs(deaths_per_hour=200.0), deadly(200.0))
    assert outcome.failed > 0
    patient = planned_config(4, **{"search.retries": 10_000})
    assert simulate(workers(2), patient, times=deadly(200.0)).failed == 0


def deadly(rate: float) -> Overheads:
    return replace(NO_OVERHEADS, deaths_per_hour=rate)


@pytest.mark.parametrize("rate", [0.0, 30.0])
def test_same_seed_is_the_same_search(rate: float) -> None:
    times = replace(Overheads(), preemptions_per_hour=rate)
    config = planned_config(9, **REPEATS)
    outcomes = [simulate(workers(4, **SPOT), config, times=times, seed=3) for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert simulate(workers(4, **SPOT), config, times=times, seed=4) != outcomes[0]


def test_trial_costs_the_same_on_every_cluster() -> None:
    """So the difference between two sizes is not the luck of the draw."""
    config = planned_config(9)
    assert simulate(workers(1), config).busy_s == pytest.approx(simulate(workers(9), config).busy_s)


# ---- order ----


def test_order_is_that_of_the_real_queue(tmp_path: Path) -> None:
    """Both run on one slot, with repeats; hyperparameters do not matter to the order."""
    changes: dict[str, Any] = {**REPEATS, "search.pruner": {"name": "NopPruner"}}
    config = planned_config(**changes)
    real = []
    with open_search(tmp_path, config) as search:
        while (trial := search.next_trial()) is not None:
            real.append((trial.key.ratio, trial.key.method, bool(trial.key.repeats_of)))
            run_trial(search, trial)
        total = search.total
    simulated = [
        (trial.key.ratio, trial.key.method, bool(trial.key.repeats_of))
        for trial in all_trials(**changes)
        if trial.key
    ]
    assert simulated == real
    assert len(real) == total


def test_first_trials_of_two_slots_are_those_of_the_real_queue(tmp_path: Path) -> None:
    config = planned_config()
    search = open_search(tmp_path, config)
    real = [next_trial(search).key for _ in range(6)]
    kill_search(search)
    queue = simulation(workers(2), config).search
    simulated = [trial.key for trial in (queue.next_trial() for _ in range(6)) if trial]
    assert simulated == real


def test_winner_of_every_study_with_several_trials_is_tested_last() -> None:
    trials = all_trials(**REPEATS)
    tests = [index for index, trial in enumerate(trials) if trial.key is None]
    assert tests == [len(trials) - 2, len(trials) - 1]  # cid at two ratios
    kinds = Counter(trial.kind for trial in trials)
    assert kinds["repeats of cid"] == kinds["repeats of supervised"] == 2 * len(RATIOS)
