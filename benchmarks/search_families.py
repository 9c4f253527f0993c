"""How much budget a search at two label ratios needs to find good hyperparameters at both.

    python -m benchmarks.search_families --config demo \\
        --curves benchmarks/results/search-efficiency/curves-demo.jsonl --out families.json

Trials are simulated as in search_efficiency, of which this has the workers, the margin and what
"arrived" means. Both ratios share one budget, and a search has arrived when both have. Contenders
are those of family_contenders.py. Numbers are interquartile means over seeds, intervals are 95 %
bootstrap intervals over seeds. Each contender adds to the file when it is done.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats

from benchmarks.family_contenders import family_contenders
from benchmarks.landscape import Landscape, read_family
from benchmarks.record_curves import REDUCED
from benchmarks.search_efficiency import MARGIN, WORKERS, replay, shipped
from cid_ray.results.provenance import provenance
from cid_ray.search.space import Space

RATIOS = ("1/16", "1/8")
CAP = 80  # a search ends after the images of so many full-length trials, of both ratios together
BUDGETS = (10, 20, 40)  # full-length trials after which the best points found are compared
AGAINST = ("stock, grace period 2, factor 2", "ours, each ratio alone")
Result = dict[str, Any]


@lru_cache(maxsize=1)
def landscapes(curves: Path, config: str) -> dict[str, Landscape]:
    return read_family(curves, Space.parse(shipped(config, *RATIOS).search.space), RATIOS)


def run_one(job: tuple[str, int, str, Path]) -> Result:
    """A contender by name with one seed."""
    name, seed, config, curves = job
    logging.getLogger("ray").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    contender = family_contenders(shipped(config, *RATIOS))[name](seed)
    lands = landscapes(curves, config)
    found = replay(contender, lands, CAP, BUDGETS[-1])
    return {
        "budget": found["reached"][0] if found["reached"] else CAP,
        "arrived": bool(found["reached"]),
        # Of the ratio with most labels alone, which a warm start is to save.
        "budget_of_last": found["arrived"].get(RATIOS[-1], (0, 0, CAP))[2],
        "regret": [regret(found["chosen"], lands, budget) for budget in BUDGETS],
        "trials": found["trials_started"],
    }


def regret(chosen: dict[str, Any], lands: dict[str, Landscape], budget: float) -> float:
    """How far the expected scores of the points chosen after a budget are below the best: the
    mean over ratios. A ratio without a finished trial has the score of an average point.
    """
    below = []
    for ratio, land in lands.items():
        found = [expected for spent, expected in chosen[ratio] if spent <= budget]
        below.append(land.best - (found[-1] if found else land.miou[:, -1].mean()))
    return float(np.mean(below))


# ---- numbers ----


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """f64[..., S] -> f64[...]: the mean of the middle half."""
    found: np.ndarray = stats.trim_mean(values, 0.25, axis=-1)
    return found


def resampled(values: list[float], draws: int = 10_000) -> np.ndarray:
    """f64[draws]: interquartile means of seeds drawn again, the same draws for all contenders."""
    drawn = np.random.default_rng(0).integers(0, len(values), (draws, len(values)))
    return interquartile_mean(np.array(values)[drawn])


def interval(value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def summary(results: list[Result]) -> Result:
    """Over seeds; a search that never arrived counts with the cap."""
    budgets = [r["budget"] for r in results]
    own = np.array([r["budget_of_last"] for r in results])
    regrets = np.array([r["regret"] for r in results]).T
    return {
        "budget": interval(float(interquartile_mean(np.array(budgets))), resampled(budgets)),
        "never_arrived": sum(not r["arrived"] for r in results),
        "budget_of_last_ratio": round(float(interquartile_mean(own)), 2),
        "regret": {
            str(b): round(float(interquartile_mean(values)), 3)
            for b, values in zip(BUDGETS, regrets, strict=True)
        },
        "budget_per_seed": [round(b, 3) for b in budgets],
    }


def ratio_of_budgets(mine: list[float], theirs: list[float]) -> dict[str, float]:
    """Ratio of interquartile means with a bootstrap interval; seeds are paired."""
    value = float(interquartile_mean(np.array(mine)) / interquartile_mean(np.array(theirs)))
    return interval(value, resampled(mine) / resampled(theirs))


def family(lands: dict[str, Landscape]) -> Result:
    """How alike the ratios are: rank correlation of recorded scores, and what the best point of
    the ratio with fewer labels is short of the best at the next.
    """
    few, more = (lands[ratio] for ratio in RATIOS)
    moved = more.expected([few.best_point])[0, -1]
    correlation = stats.spearmanr(few.miou[:, -1], more.miou[:, -1]).statistic
    return {
        "rank_correlation": round(float(correlation), 3),
        "best_of_fewer_labels_is_short_by": round(more.best - float(moved), 3),
        "landscapes": {ratio: land.quality() for ratio, land in lands.items()},
    }


def main() -> None:
    args = parse_options()
    numbers: Result = json.loads(args.out.read_text()) if args.out.exists() else {}
    own = numbers.setdefault(args.config, {"contenders": {}})
    lands = landscapes(args.curves, args.config)
    settings = {"seeds": args.seeds, "cap": CAP, "margin": MARGIN, "workers": WORKERS}
    own |= {**settings, "family": family(lands), **provenance()}
    found = own["contenders"]
    for name in args.only or list(family_contenders(shipped(args.config, *RATIOS))):
        started = time.monotonic()
        jobs = [(name, seed, args.config, args.curves) for seed in range(args.seeds)]
        with ProcessPoolExecutor(args.processes) as pool:
            found[name] = summary(list(pool.map(run_one, jobs)))
        for mine in found.values():
            mine["against"] = {
                other: ratio_of_budgets(mine["budget_per_seed"], found[other]["budget_per_seed"])
                for other in AGAINST
                if other in found and found[other] is not mine
            }
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")
        shown = {k: v for k, v in found[name].items() if k != "budget_per_seed"}
        print(f"{name} ({time.monotonic() - started:.0f} s): {json.dumps(shown)}", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="demo", choices=list(REDUCED))
    add("--curves", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--seeds", type=int, default=30)
    add("--processes", type=int, default=1)
    add("--only", nargs="+", help="contenders to run; the others keep their numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
