"""How many images a search needs to find good hyperparameters: ours, Ray's stock pair, random
search.

    python -m benchmarks.search_efficiency --out benchmarks/results/search-efficiency

Trials are simulated. What a suggested point scores and when comes from real learning curves
(landscape.py). Two workers run concurrently, and time is images trained on. Studies, samplers,
pruners, OptunaSearch and ASHAScheduler are the real ones, called as Tune calls them. A search has
arrived when a trial FINISHES at full length whose expected score is within 0.5 mIoU of the best of
a long random search. Writes result.json and figure.svg.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.contenders import Contender, Ours, contenders
from benchmarks.landscape import Landscape
from benchmarks.record_curves import REDUCED, base_config
from cid_ray.config import Config, read_yaml
from cid_ray.results.provenance import provenance
from cid_ray.search.space import Space

RATIO = "1/16"
WORKERS = 2
MARGIN = 0.5  # mIoU below the best at which a search has arrived
CAP = 60  # a search ends after the images of so many full-length trials
BUDGETS = (10, 20, 40)  # full-length trials after which the best point found is compared


# ---- the replay ----


def replay(
    contender: Contender,
    lands: Mapping[str, Landscape],
    cap: float = CAP,
    last: float = BUDGETS[-1],
) -> dict[str, Any]:
    """One search on WORKERS simulated workers, at the ratios of `lands`. It ends after `cap`, or
    after `last` when all ratios have arrived.

    Budgets are in full-length trials: images of all workers divided by those of a full trial.
    """
    full = int(next(iter(lands.values())).images[-1])
    rungs = [round(fraction * full) for fraction in contender.fractions]  # in images
    tie_break = itertools.count()
    started = 0
    # Ratio -> (budget, expected score) of each new best trial.
    chosen: dict[str, list[tuple[float, float]]] = {ratio: [] for ratio in lands}
    arrived: dict[str, tuple[float, int]] = {}  # ratio -> (budget, trials started)
    # Ratio -> (budget, expected score, budget of this ratio alone) of each trial of full length.
    finished: dict[str, list[tuple[float, float, float]]] = {ratio: [] for ratio in lands}
    used = dict.fromkeys(lands, 0)  # images
    best = dict.fromkeys(lands, -np.inf)
    # (time, tie break, handle, ratio, (curve, expected score), rung)
    events: list[tuple[int, int, Any, str, Any, int]] = []

    def start_trial(now: int) -> None:
        nonlocal started
        if trial := contender.start():
            started += 1
            handle, ratio, point = trial
            seen = lands[ratio].seen(point)
            heapq.heappush(events, (now + rungs[0], next(tie_break), handle, ratio, seen, 0))

    for _ in range(WORKERS):
        start_trial(0)
    while events:
        now, _, handle, ratio, (curve, expected), rung = heapq.heappop(events)
        land = lands[ratio]
        spent = WORKERS * now / full
        if spent > cap or (len(arrived) == len(lands) and spent > last):
            break
        used[ratio] += rungs[rung] - (rungs[rung - 1] if rung else 0)
        value = float(np.interp(rungs[rung], land.images, curve))
        stop = contender.report(handle, rung + 1, rungs[rung], value)
        full_length = rungs[rung] == full
        if full_length:
            finished[ratio].append((spent, expected, used[ratio] / full))
        if full_length and value > best[ratio]:
            best[ratio] = value
            chosen[ratio].append((spent, expected))
        if full_length and expected >= land.best - MARGIN:
            arrived.setdefault(ratio, (spent, started))
        if stop or full_length:
            start_trial(now)
        else:
            later = now + rungs[rung + 1] - rungs[rung]
            event = (later, next(tie_break), handle, ratio, (curve, expected), rung + 1)
            heapq.heappush(events, event)
    reached = max(arrived.values()) if len(arrived) == len(lands) else None
    return {
        "reached": reached,
        "finished": finished,
        "chosen": chosen,
        "trials_started": started,
    }


def shipped(name: str, *ratios: str) -> Config:
    """The recorded space and lengths with the rungs of the shipped file."""
    rungs = read_yaml(f"search_spaces/{name}.yaml")["train"]["rungs"]
    return base_config(name, **{"train.rungs": rungs, "search.ratios": list(ratios)})


@lru_cache(maxsize=2)
def landscape(curves: Path, config: str, part: str) -> Landscape:
    """`part`: all recorded trials, or those with an even or an odd number."""
    keep = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[part]
    space = Space.parse(shipped(config, RATIO).search.space)
    return Landscape.read(curves, space, RATIO, keep)


def run_one(job: tuple[str, dict[str, Any] | None, int, str, Path, str]) -> dict[str, Any]:
    """A job of the process pool: a contender by name, or ours with changes; one seed; a part of the
    table.
    """
    name, changes, seed, config, curves, part = job
    logging.getLogger("ray").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    base = shipped(config, RATIO)
    make = contenders(base)[name] if changes is None else partial(Ours, base, changes=changes)
    found = replay(make(seed), {RATIO: landscape(curves, config, part)})
    return {**found, "chosen": found["chosen"][RATIO]}


# ---- numbers ----


def regret(chosen: list[tuple[float, float]], best: float, budget: float) -> float:
    """How far the expected score of the point chosen after a budget is below the best."""
    return best - next(
        (expected for spent, expected in reversed(chosen) if spent <= budget), np.nan
    )


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
        "trials_started": spread(
            [r["reached"][1] if r["reached"] else r["trials_started"] for r in results]
        ),
        "never_arrived": sum(r["reached"] is None for r in results),
        "regret": {
            str(b): spread([regret(r["chosen"], land.best, b) for r in results]) for b in BUDGETS
        },
        "budget_per_seed": [round(b, 3) for b in budget],
    }


def ratio(mine: list[float], theirs: list[float], draws: int = 10_000) -> dict[str, float]:
    """Ratio of medians with a 95 % bootstrap interval over seeds (the same seeds on both sides)."""
    a, b = np.array(mine), np.array(theirs)
    picks = np.random.default_rng(0).integers(0, len(a), (draws, len(a)))
    low, high = np.percentile(np.median(a[picks], 1) / np.median(b[picks], 1), [2.5, 97.5])
    return {
        "ratio": round(float(np.median(a) / np.median(b)), 3),
        "low": round(low, 3),
        "high": round(high, 3),
    }


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
    axes.set(
        xlabel="budget (full-length trials)",
        ylabel="expected mIoU below the best (median)",
        ylim=(0, None),
    )
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    args = parse_options()
    land = landscape(args.curves, args.config, "all")
    path = args.out / "result.json"
    names = args.only or list(contenders(shipped(args.config, RATIO)))
    jobs = [
        (name, None, seed, args.config, args.curves, "all")
        for name in names
        for seed in range(args.seeds)
    ]
    with ProcessPoolExecutor(args.processes) as pool:
        found = list(pool.map(run_one, jobs))
    results = {n: found[k * args.seeds : (k + 1) * args.seeds] for k, n in enumerate(names)}
    numbers = json.loads(path.read_text())["contenders"] if args.only else {}
    numbers |= {name: summary(runs, land) for name, runs in results.items()}
    for name, own in numbers.items():
        own["against"] = {
            other: ratio(own["budget_per_seed"], numbers[other]["budget_per_seed"])
            for other in numbers
            if other != name
        }
    result: dict[str, Any] = {
        "target": round(land.best - MARGIN, 3),
        "images_per_trial": int(land.images[-1]),
        "workers": WORKERS,
        "cap": CAP,
        "seeds": args.seeds,
        "landscape": land.quality(),
        **provenance(),
        "contenders": numbers,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    if not args.only:
        figure(results, land.best, args.out / "figure.svg")
    for name, own in numbers.items():
        trials, never = own["full_length_trials"], own["never_arrived"]
        print(f"{name:34} {trials} started {own['trials_started']} never arrived {never}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    curves = Path("benchmarks/results/search-efficiency/curves.jsonl")
    add("--config", default="camvid", choices=list(REDUCED))
    add("--curves", type=Path, default=curves)
    add("--out", type=Path, required=True)
    add("--seeds", type=int, default=30)
    add("--processes", type=int, default=2)
    add("--only", nargs="+", help="contenders to run again; the others keep their numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
