"""How many images a search needs to find a good setting: ours, Ray's stock pair and random search, on the same table.

    python benchmarks/search_efficiency.py --out benchmarks/results/search-efficiency

Trials are simulated: what a suggested point scores and when comes from real learning curves (landscape.py), two workers
run side by side, and time is images trained on. Studies, samplers, pruners, OptunaSearch and ASHAScheduler are the real
ones, called as Tune calls them. A search has arrived when a trial ENDS at full length whose expected score is within
0.5 mIoU of the best of a long random search. Writes result.json and figure.svg.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import logging
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from contenders import Contender, Ours, contenders
from landscape import Landscape
from record_curves import base_config

from cid_ray.config import Config, read_yaml
from cid_ray.results.record import provenance
from cid_ray.search.space import Space

WORKERS, MARGIN = 2, 0.5
CAP = 60  # a search ends after the images of so many full-length trials
BUDGETS = (10, 20, 40)  # full-length trials after which the best setting found is compared


# ---- the replay ----


def replay(contender: Contender, land: Landscape) -> dict[str, Any]:
    """One search on WORKERS simulated workers. Budgets are in full-length trials: images of all workers / a trial's."""
    full = int(land.images[-1])
    rungs = [round(share * full) for share in contender.shares]  # in images
    order, begun, ended, reached, best = itertools.count(), 0, [], None, -np.inf
    events: list[tuple[int, int, Any, Any, int]] = []  # when, tie break, handle, curve and expected score, rung

    def begin(now: int) -> None:
        nonlocal begun
        begun += 1
        handle, point = contender.begin()
        heapq.heappush(events, (now + rungs[0], next(order), handle, land.seen(point), 0))

    for _ in range(WORKERS):
        begin(0)
    while True:
        now, _, handle, (curve, expected), rung = heapq.heappop(events)
        spent = WORKERS * now / full
        if spent > CAP or (reached and spent > BUDGETS[-1]):
            break
        value = float(np.interp(rungs[rung], land.images, curve))
        stop = contender.report(handle, rung + 1, rungs[rung], value)
        if rungs[rung] == full:
            if value > best:
                best = value
                ended.append((spent, expected))
            if expected >= land.best - MARGIN and not reached:
                reached = (spent, begun)
        if stop or rungs[rung] == full:
            begin(now)
        else:
            heapq.heappush(
                events, (now + rungs[rung + 1] - rungs[rung], next(order), handle, (curve, expected), rung + 1)
            )
    return {"reached": reached, "chosen": ended, "trials_begun": begun}


def shipped(config: str) -> Config:
    """The recorded space and lengths with the rungs of the shipped file."""
    return base_config(config, **{"train.rungs": read_yaml(config)["train"]["rungs"]})


@lru_cache(maxsize=2)
def landscape(curves: Path, config: str, part: str) -> Landscape:
    """`part`: all settings, or those with an even or an odd number."""
    keep = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[part]
    return Landscape.read(curves, Space.parse(shipped(config).search.space), keep)


def run_one(job: tuple[str, dict[str, Any] | None, int, str, Path, str]) -> dict[str, Any]:
    """A job of the process pool: a contender by name, or ours with changes; one seed; a part of the table."""
    name, changes, seed, config, curves, part = job
    logging.getLogger("ray").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = shipped(config)
    make = contenders(base)[name] if changes is None else partial(Ours, base, **changes)
    return replay(make(seed), landscape(curves, config, part))


# ---- numbers ----


def regret(chosen: list[tuple[float, float]], best: float, budget: float) -> float:
    """How far the expected score of the setting that would be chosen after a budget lies below the best one."""
    return best - next((expected for spent, expected in reversed(chosen) if spent <= budget), np.nan)


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = map(float, np.nanpercentile(values, [5, 50, 95]))
    return {"median": round(middle, 3), "p5": round(low, 3), "p95": round(high, 3)}


def summary(results: list[dict[str, Any]], land: Landscape) -> dict[str, Any]:
    """Over seeds; a search that never arrived counts with the cap."""
    full = int(land.images[-1])
    budget = [r["reached"][0] if r["reached"] else CAP for r in results]
    return {
        "full_length_trials": spread(budget),
        "images": {k: round(v * full) for k, v in spread(budget).items()},
        "trials_begun": spread([r["reached"][1] if r["reached"] else r["trials_begun"] for r in results]),
        "never_arrived": sum(r["reached"] is None for r in results),
        "regret": {str(b): spread([regret(r["chosen"], land.best, b) for r in results]) for b in BUDGETS},
        "budget_per_seed": [round(b, 3) for b in budget],
    }


def ratio(mine: list[float], theirs: list[float], draws: int = 10_000) -> dict[str, float]:
    """Ratio of medians with a 95 % bootstrap interval over seeds (the same seeds on both sides)."""
    a, b = np.array(mine), np.array(theirs)
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    low, high = np.percentile(np.median(a[picks], 1) / np.median(b[picks], 1), [2.5, 97.5])
    return {"ratio": round(float(np.median(a) / np.median(b)), 3), "low": round(low, 3), "high": round(high, 3)}


def figure(results: dict[str, list[dict[str, Any]]], best: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "search-efficiency"
    from matplotlib import pyplot as plt

    budgets = np.arange(1, BUDGETS[-1] + 0.5, 0.5)
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, runs in results.items():
        bests = np.array([[regret(r["chosen"], best, b) for b in budgets] for r in runs])
        seen = np.isfinite(bests).mean(0) > 0.5
        axes.plot(budgets[seen], np.nanmedian(bests[:, seen], 0), label=name)
    axes.axhline(MARGIN, color="grey", lw=0.8, ls=":")
    axes.set(xlabel="budget (full-length trials)", ylabel="expected mIoU below the best (median)", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--config", default="search_spaces/camvid.yaml")
    options.add_argument("--curves", type=Path, default=Path("benchmarks/results/search-efficiency/curves.jsonl"))
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seeds", type=int, default=30)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--only", nargs="+", help="contenders to play again; the others keep their numbers")
    args = options.parse_args()
    land, path = landscape(args.curves, args.config, "all"), args.out / "result.json"
    names = args.only or list(contenders(shipped(args.config)))
    jobs = [(name, None, seed, args.config, args.curves, "all") for name in names for seed in range(args.seeds)]
    with ProcessPoolExecutor(args.processes) as pool:
        found = list(pool.map(run_one, jobs))
    results = {name: found[k * args.seeds : (k + 1) * args.seeds] for k, name in enumerate(names)}
    numbers = json.loads(path.read_text())["contenders"] if args.only else {}
    numbers |= {name: summary(runs, land) for name, runs in results.items()}
    for name, own in numbers.items():
        others = [other for other in numbers if other != name]
        own["against"] = {o: ratio(own["budget_per_seed"], numbers[o]["budget_per_seed"]) for o in others}
    said = {"target": round(land.best - MARGIN, 3), "images_per_trial": int(land.images[-1]), "workers": WORKERS}
    said |= {"cap": CAP, "seeds": args.seeds, "landscape": land.quality(), **provenance(), "contenders": numbers}
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said, indent=1) + "\n")
    if not args.only:
        figure(results, land.best, args.out / "figure.svg")
    for name, own in numbers.items():
        print(f"{name:34} {own['full_length_trials']} begun {own['trials_begun']} never {own['never_arrived']}")


if __name__ == "__main__":
    main()
