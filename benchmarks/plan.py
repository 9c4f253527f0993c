"""Forecasts of `scale plan` against the real makespan of searches.

    python -m benchmarks.plan demo --out results.json [--steps 100]
    python -m benchmarks.plan autoscaling --out results.json

`demo` runs the demo search four times: with one and with two concurrent trials, with two seeds. The
records of the first seed forecast the searches of the second. `autoscaling` runs the search of
benchmarks/harness/autoscaling.py undisturbed: its records, and when its nodes came, forecast the
same search with a node killed in the middle. Each forecast is also made from the run's own records,
which leaves out what the machine's other load changed in between.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cid_ray.config import Config, load_config
from cid_ray.planning.fleet import Fleet, NodeGroup
from cid_ray.planning.outcome import Outcome
from cid_ray.planning.plan import Plan, interval, studies_of
from cid_ray.planning.simulated_search import SimulatedSearch
from cid_ray.planning.simulation import Node, Overheads, Simulation
from cid_ray.planning.trial_costs import TrialCosts, read_trial_costs
from cid_ray.resources.capacity import ClusterCapacity, NodeType, Resources
from cid_ray.results.provenance import provenance
from cid_ray.results.records import of_event, read_records

SIMULATIONS = 200
TWO_CPUS = ClusterCapacity((NodeType("this machine", Resources(2, 0), 1, 1),), 1, "two CPUs")
RUNS = {  # name -> concurrent trials, seed
    "one at a time, seed 0": (1, 0),
    "two at a time, seed 0": (2, 0),
    "one at a time, seed 1": (1, 1),
    "two at a time, seed 1": (2, 1),
}
SOURCES = [name for name, (_, seed) in RUNS.items() if seed == 0]


# ---- the demo on this machine ----


def run_demo(folder: Path, steps: int) -> dict[str, Any]:
    """Run the searches, unless they are there; name -> its seconds and the machine's load."""
    found = {}
    for name, (concurrent, seed) in RUNS.items():
        file = folder / f"{name}.json"
        if file.is_file():
            found[name] = json.loads(file.read_text())
            continue
        changes = (
            f"train.steps={steps}",
            f"train.seed={seed}",
            f"search.max_concurrent_trials={concurrent}",
        )
        command = [sys.executable, "-m", "cid_ray.tune", "--config", "demo", "-q"]
        command += ["--out", str(folder / name), *(f"--set={change}" for change in changes)]
        load = os.getloadavg()[0]
        started = time.time()
        subprocess.run(command, check=True, env={**os.environ, "RAY_ADDRESS": "local"})
        found[name] = {"seconds": round(time.time() - started, 1), "started": started, "load": load}
        file.write_text(json.dumps(found[name]))
    return found


def forecast_demo(folder: Path, timed: dict[str, Any]) -> list[dict[str, Any]]:
    """Every search of seed 1, from the records of both of seed 0 and from its own."""
    found = []
    for name in (name for name in RUNS if name not in SOURCES):
        config = load_config(folder / name / "config.yaml")
        real = timed[name]["seconds"]
        start = first_start(folder / name) - timed[name]["started"]
        for source in (*SOURCES, name):
            costs = read_trial_costs(read_records(folder / source), config, source)
            times = Overheads()
            makespan = forecast(config, costs, times)
            known_start = forecast(config, costs, replace(times, search_start_s=start))
            found.append(
                {
                    "search": name,
                    "durations_of": source,
                    "real_s": real,
                    "search_start_s": round(start, 1),
                    **compared(makespan, real),
                    "error_with_real_start": compared(known_start, real)["error"],
                    "load": round(timed[name]["load"], 1),
                }
            )
    return found


def forecast(config: Config, costs: TrialCosts, times: Overheads) -> dict[str, float]:
    """The makespan on one machine with two CPUs."""
    plan = Plan("forecast", config, TWO_CPUS, lambda _: 1.0, costs, times, simulations=SIMULATIONS)
    makespan: dict[str, float] = plan.records([1])[0]["makespan_s"]
    return makespan


def compared(makespan: dict[str, float], real: float) -> dict[str, Any]:
    return {"forecast_s": makespan, "error": round(makespan["median"] / real - 1, 4)}


def first_start(run: Path) -> float:
    """Unix time at which the first trial of a run started, by its log: whole seconds."""
    lines = (run / "log.txt").read_text().splitlines()
    clock = next(line.split()[0] for line in lines if line.endswith(": started"))
    day = datetime.fromtimestamp((run / "log.txt").stat().st_mtime)
    return datetime.strptime(f"{day:%Y-%m-%d} {clock}", "%Y-%m-%d %H:%M:%S").timestamp()


# ---- a cluster that grows, and loses a node ----


class OneLoss(Simulation):
    """The first node is taken away at a given second."""

    lost_at = float("inf")

    def preemption_delay(self, node: Node) -> float:
        first = next(each for each in self.nodes if not each.always_on)
        return max(0.0, self.lost_at - self.env.now) if node is first else float("inf")


def run_autoscaling(folder: Path, name: str, *options: str) -> dict[str, Any]:
    file = folder / f"{name}.json"
    if file.is_file():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    command = [sys.executable, "-m", "benchmarks.harness.autoscaling", *options]
    command += ["--keep", str(folder / name)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["load"] = round(os.getloadavg()[0], 1)
    file.write_text(json.dumps(found))
    return found


def forecast_autoscaling(folder: Path, calm: dict[str, Any], lossy: dict[str, Any]) -> Any:
    """The makespan of both searches, from the calm one's records and from their own."""
    # From the command to the first node's trial: what the calm run took, and the machine's parts.
    times = Overheads(
        search_start_s=calm["first_node_s"] - 2,
        autoscaler_s=1.0,  # AUTOSCALER_UPDATE_INTERVAL_S of the harness
        node_start_s=1.0,
        idle_timeout_s=6.0,
        preemptions_per_hour=1.0,  # any: OneLoss decides when
    )
    found = []
    for name, result in (("undisturbed", calm), ("one node lost", lossy)):
        config = load_config(folder / name / "config.yaml")
        for source in dict.fromkeys(("undisturbed", name)):
            costs = read_trial_costs(read_records(folder / source), config, source)
            costs = replace(costs, deaths_per_hour=0.0)  # its retry is the node that we kill
            outcomes = simulate(config, costs, times, result["preempted"].get("second"))
            makespan = interval([outcome.makespan_s for outcome in outcomes])
            found.append(
                {
                    "search": name,
                    "durations_of": source,
                    "real_s": result["ended"],
                    **compared(makespan, result["ended"]),
                    "load": result["load"],
                }
            )
    return found


def simulate(
    config: Config, costs: TrialCosts, times: Overheads, lost_at: float | None
) -> list[Outcome]:
    fleet = Fleet((NodeGroup("worker", 0, 2, 1, spot=lost_at is not None),), 2)
    studies = studies_of(config)
    seconds = max(one["seconds"] or 0.0 for one in costs.by_method())
    steps = config.train.checkpoint_steps or config.train.steps
    times = replace(times, checkpoint_every_s=seconds * steps / config.train.steps)
    outcomes = []
    for seed in range(SIMULATIONS):
        one = OneLoss(SimulatedSearch(config, studies, costs, seed), fleet, times)
        one.lost_at = lost_at or float("inf")
        outcomes.append(one.run())
    return outcomes


def first_node(result: dict[str, Any]) -> float:
    """Seconds from the command to the first node."""
    return float(next(change["second"] for change in result["nodes"] if change["nodes"]))


def autoscaling(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    calm = run_autoscaling(folder, "undisturbed")
    lossy = run_autoscaling(folder, "one node lost", "--preempt")
    calm["first_node_s"] = first_node(calm)
    nodes = {"undisturbed": calm["nodes"], "one node lost": lossy["nodes"]}
    forecasts = forecast_autoscaling(folder, calm, lossy)
    logs = [re.sub(r"\S*grow-\S+", "OUT", line) for line in lossy["log"]]
    return {
        "forecasts": forecasts,
        "nodes": nodes,
        "preempted": lossy["preempted"],
        "retried": lossy["retried"],
        "log": [line for line in logs if "started" in line or "complete" in line],
    }


def demo(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    timed = run_demo(folder, args.steps)
    trials = {name: len(of_event(read_records(folder / name), "trial")) for name in RUNS}
    return {"steps": args.steps, "trials": trials, "forecasts": forecast_demo(folder, timed)}


KINDS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "demo": demo,
    "autoscaling": autoscaling,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kind", choices=list(KINDS))
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--steps", type=int, default=200, help="of each trial of the demo")
    options.add_argument("--folder", type=Path, help="of the runs; those that are there are kept")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True) as name:
        result = KINDS[args.kind](args.folder or Path(name), args)
    result |= {"simulations": SIMULATIONS, "versions": provenance()["versions"]}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["forecasts"], indent=1))


if __name__ == "__main__":
    main()
