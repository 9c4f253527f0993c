"""Searches to simulate: recorded trials with known seconds, and clusters without overheads."""

from __future__ import annotations

import functools
from typing import Any

from cid_ray.config import Config, build_config
from cid_ray.planning.fleet import Fleet, NodeGroup
from cid_ray.planning.outcome import Outcome
from cid_ray.planning.plan import studies_of
from cid_ray.planning.simulated_search import SimulatedSearch
from cid_ray.planning.simulation import Overheads, Simulation
from cid_ray.planning.trial_costs import TrialCost, TrialCosts
from cid_ray.search.trial_spec import StudyKey
from tests.helpers.tiny_run import TINY

RATIOS = ("1/16", "1/8")
BASELINES = ("supervised", "mean_teacher")
NO_OVERHEADS = Overheads(
    search_start_s=0,
    process_start_s=0,
    trial_start_s=0,
    driver_s=0,
    report_s=0,
    autoscaler_s=0,
    node_start_s=0,
    idle_timeout_s=0,
    node_loss_s=0,
)


def planned_config(trials: int = 4, **changes: Any) -> Config:
    """A search of two ratios, two baselines and `trials` CID trials at each."""
    search = {
        "ratios": list(RATIOS),
        "baselines": list(BASELINES),
        "trials": trials,
        "space": {"loss.relation_weight": {"float": [0.0, 1.0]}},
        "sampler": {"name": "RandomSampler"},
    }
    return build_config({**TINY, "search": search}, changes)


def known_costs(test_s: float = 0.0, deaths_per_hour: float = 0.0) -> TrialCosts:
    """A supervised trial takes 10 s, mean teacher 20, CID 40; a pruned CID trial 15."""
    complete = {"supervised": (5.0, 10.0), "mean_teacher": (10.0, 20.0), "cid": (15.0, 40.0)}
    trials = {
        (ratio, method, False): [TrialCost(ends, True)]
        for ratio in RATIOS
        for method, ends in complete.items()
    }
    for ratio in RATIOS:
        trials[ratio, "cid", False].append(TrialCost((15.0,), False))
    return TrialCosts(trials, test_s, deaths_per_hour, "runs/known", 4)


def workers(nodes: int, slots: int = 1, **fields: Any) -> Fleet:
    """Nodes that always run; with `always_on=0` the autoscaler starts them."""
    group = NodeGroup(
        **{"name": "worker", "always_on": nodes, "max_nodes": nodes, **fields}, slots=slots
    )
    return Fleet((group,), nodes * slots)


def simulate(
    fleet: Fleet,
    config: Config | None = None,
    costs: TrialCosts | None = None,
    times: Overheads = NO_OVERHEADS,
    seed: int = 0,
) -> Outcome:
    """One simulated search."""
    return simulation(fleet, config, costs, times, seed).run()


def simulation(
    fleet: Fleet,
    config: Config | None = None,
    costs: TrialCosts | None = None,
    times: Overheads = NO_OVERHEADS,
    seed: int = 0,
) -> Simulation:
    """The same before it is run."""
    config = config or planned_config()
    studies = dict(_studies(config.model_dump_json()))
    search = SimulatedSearch(config, studies, costs or known_costs(), seed)
    return Simulation(search, fleet, times)


@functools.cache
def _studies(config_json: str) -> dict[StudyKey, int]:
    """The check of a search samples its whole space, which takes longer than a simulation."""
    return studies_of(Config.model_validate_json(config_json))
