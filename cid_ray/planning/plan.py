"""A search on clusters of several sizes, each simulated many times: one `plan` record per size."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median

from cid_ray.config import Config, InputError
from cid_ray.planning.fleet import Fleet, make_fleet
from cid_ray.planning.outcome import Outcome
from cid_ray.planning.simulated_search import SimulatedSearch
from cid_ray.planning.simulation import Overheads, Simulation
from cid_ray.planning.trial_costs import TrialCosts
from cid_ray.resources.capacity import ClusterCapacity, Price
from cid_ray.results.records import Record
from cid_ray.search.checks import check_search
from cid_ray.search.order import n_candidates
from cid_ray.search.trial_spec import StudyKey, n_trials, search_studies

LOW, HIGH = 0.05, 0.95  # of the simulations: the interval
MAX_NODES = 100_000


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        name: of the plan, for its records.
        config: of the search.
        capacity: the cluster's node types.
        price: node type -> US dollars per hour; None: unknown.
        costs: recorded trials.
        speed: how many times faster the cluster's machines are than those of the run.
        times: overheads.
        simulations: per number of nodes, each with another seed.
        worth: a doubling of the nodes must save this fraction of the time.
        notes: what else a reader of the numbers should know.
    """

    name: str
    config: Config
    capacity: ClusterCapacity
    price: Price
    costs: TrialCosts
    times: Overheads
    speed: float = 1.0
    simulations: int = 40
    worth: float = 0.1
    notes: Sequence[str] = ()

    def records(self, nodes: Sequence[int]) -> list[Record]:
        """One `plan` record per number of nodes; at most one is the recommended one.

        Raises:
            InputError: a trial can never be placed, or its cost is unknown.
        """
        studies = studies_of(self.config)
        found: list[Record] = []
        for number in sorted(set(nodes)):
            fleet = make_fleet(self.config, self.capacity, self.price, number)
            if found and self._adds_nothing(found[-1], fleet, studies):
                # Nodes that are never started change nothing: no need to simulate them.
                own = {"nodes": number, "max_concurrent": fleet.max_concurrent}
                found.append({**found[-1], **own})
            else:
                found.append(self._record(number, fleet, studies))
        best = recommended(found, self.worth)
        return [{**record, "recommended": record is best} for record in found]

    def _adds_nothing(self, last: Record, fleet: Fleet, studies: dict[StudyKey, int]) -> bool:
        """Whether more nodes than in the last record are never started: each trial had its own."""
        repeats = self.config.search.repeats
        candidates = sum(n_candidates(key.method, repeats) for key in studies)
        at_most = sum(studies.values()) + repeats.n * candidates
        return fleet.workers.always_on < last["nodes"] >= at_most

    def outcomes(self, fleet: Fleet, studies: dict[StudyKey, int]) -> list[Outcome]:
        """The simulated searches on one cluster, one for each seed."""
        costs = self.costs.scaled(1 / self.speed)
        times = replace(self.times, deaths_per_hour=costs.deaths_per_hour)
        searches = [
            SimulatedSearch(self.config, studies, costs, seed) for seed in range(self.simulations)
        ]
        return [Simulation(search, fleet, times).run() for search in searches]

    def _record(self, nodes: int, fleet: Fleet, studies: dict[StudyKey, int]) -> Record:
        outcomes = self.outcomes(fleet, studies)
        typical = sorted(outcomes, key=lambda outcome: outcome.makespan_s)[len(outcomes) // 2]
        dollars = [outcome.usd for outcome in outcomes]
        limits = {each.name: each.max_nodes for each in self.capacity.node_types}
        return {
            "event": "plan",
            "run": self.name,
            "ratio": ", ".join(self.config.search.all_ratios),
            "method": "",
            "trial_number": 0,
            "repeats_of": "",
            "repeat_index": 0,
            "cluster": self.capacity.name,
            "node_type": fleet.workers.name,
            "nodes": nodes,
            "max_nodes": limits[fleet.workers.name],
            "max_concurrent": fleet.max_concurrent,
            "durations_of": self.costs.run,
            "methods": self.costs.by_method(),
            "speed": self.speed,
            "simulations": self.simulations,
            "makespan_s": interval([outcome.makespan_s for outcome in outcomes]),
            "usd": None if None in dollars else interval([usd or 0.0 for usd in dollars]),
            "node_hours": interval([outcome.node_hours for outcome in outcomes]),
            "gpu_hours": interval([outcome.gpu_hours for outcome in outcomes]),
            "idle_percent": interval([outcome.idle_percent for outcome in outcomes]),
            "preemptions": fmean(outcome.preemptions for outcome in outcomes),
            "lost_s": round(fmean(outcome.lost_s for outcome in outcomes), 3),
            "failed": fmean(outcome.failed for outcome in outcomes),
            "critical_path": [
                {"what": what, "seconds": round(seconds, 3)} for what, seconds in typical.chain
            ],
            "worth": self.worth,
            "options": self._options(),
            "notes": list(self.notes),
            "timestamp": time.time(),
        }

    def _options(self) -> dict[str, float]:
        found = {**asdict(self.times), "deaths_per_hour": self.costs.deaths_per_hour}
        found["test_s"] = self.costs.test_s
        return {key: value for key, value in found.items() if value not in (None, math.inf)}


def studies_of(config: Config) -> dict[StudyKey, int]:
    """The studies of a search in the order in which it opens them, with their numbers of trials.

    Raises:
        InputError: the search would be refused too.
    """
    space = check_search(config)
    return {key: n_trials(config, space, key) for key in search_studies(config)}


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median, and the range that 90 % of the values are in."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": round(median(ordered), 4),
        "low": round(ordered[round(LOW * last)], 4),
        "high": round(ordered[round(HIGH * last)], 4),
    }


def recommended(records: list[Record], worth: float) -> Record | None:
    """The fewest nodes past which a doubling saves less than `worth` of the time.

    None: past the most nodes a doubling may still save as much.
    """
    for record, larger in itertools.pairwise(records):
        doublings = math.log2(larger["nodes"] / record["nodes"])
        ratio = larger["makespan_s"]["median"] / record["makespan_s"]["median"]
        if 1 - ratio ** (1 / doublings) < worth:
            return record
    return None


def parse_nodes(text: str) -> list[int]:
    """ "1,2,4,...,32" as [1, 2, 4, 8, 16, 32]: the dots continue the last factor.

    Raises:
        InputError: no list of positive whole numbers.
    """
    found: list[int] = []
    words = [word.strip() for word in text.split(",")]
    problem = InputError(
        f"--nodes {text} must be positive whole numbers, such as 1,2,4 or 1,2,4,...,1000"
    )
    for index, word in enumerate(words):
        if word == "..." and len(found) >= 2 and index == len(words) - 2:
            factor = found[-1] / found[-2]
            end = words[-1]
            while factor > 1 and end.isdecimal() and found[-1] * factor < int(end[:7]):
                found.append(round(found[-1] * factor))
            continue
        if not word.isdecimal() or not 1 <= int(word[:7]) <= MAX_NODES:
            raise problem
        found.append(int(word))
    return found
