"""How much budget a search at two label ratios needs to find good hyperparameters at both.

    python -m benchmarks.search_families --config demo \\
        --curves benchmarks/results/search-efficiency/curves-demo.jsonl --out families.json

Trials are simulated as in search_efficiency. Both ratios share one budget, and a search has arrived
when both have. Contenders
are those of family_contenders.py. Numbers are interquartile means over seeds, intervals are 95 %
bootstrap intervals over seeds. Each contender adds to the file when it is done.
"""

from __future__ import annotations

import argparse
import itertools
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
from benchmarks.landscape import KERNELS, Landscape, read_family
from benchmarks.record_curves import REDUCED
from benchmarks.search_efficiency import MARGIN, WORKERS, replay, shipped
from cid_ray.results.provenance import provenance
from cid_ray.search.space import Space

RATIOS = ("1/16", "1/8")
MARGINS = (MARGIN, 1.0)  # mIoU below the best at which a search has arrived
CAP = 80  # a search ends after the images of so many full-length trials, of both ratios together
BUDGETS = (10, 20, 30)  # full-length trials after which the best points found are compared
AGAINST = (
    "stock, grace period 2, factor 2",
    "ours, each ratio alone",
    "ours, each ratio alone, 20 trials",
)
Result = dict[str, Any]


@lru_cache(maxsize=1)
def landscapes(curves: Path, config: str, kernel: str) -> dict[str, Landscape]:
    space = Space.parse(shipped(config, *RATIOS).search.space)
    return read_family(curves, space, RATIOS, kernel)


def run_one(job: tuple[str, int, str, Path, str]) -> Result:
    """A contender by name with one seed."""
    name, seed, config, curves, kernel = job
    logging.getLogger("ray").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    contender = family_contenders(shipped(config, *RATIOS))[name](seed)
    lands = landscapes(curves, config, kernel)
    found = replay(contender, lands, CAP, BUDGETS[-1])
    arrivals = {margin: arrival(found["finished"], lands, margin) for margin in MARGINS}
    return {
        "budget": [max(spent for spent, _ in own.values()) for own in arrivals.values()],
        # Of the ratio with most labels alone, which a warm start is to save.
        "budget_of_last": [own[RATIOS[-1]][1] for own in arrivals.values()],
        "regret": [regret(found["chosen"], lands, budget) for budget in BUDGETS],
    }


def arrival(
    finished: dict[str, Any], lands: dict[str, Landscape], margin: float
) -> dict[str, tuple[float, float]]:
    """Ratio -> budget until a finished trial is within the margin of the best: that of the whole
    search, and that of the ratio alone. The cap, if there is none.
    """
    never = (float(CAP), float(CAP))
    return {
        ratio: next(
            ((spent, own) for spent, score, own in finished[ratio] if score >= land.best - margin),
            never,
        )
        for ratio, land in lands.items()
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
    """Over seeds, by margin; a search that never arrived counts with the cap."""
    found: Result = {}
    for k, margin in enumerate(MARGINS):
        found[f"within {margin}"] = {
            "never_arrived": sum(r["budget"][k] == CAP for r in results),
            "budget": over_seeds([r["budget"][k] for r in results]),
            "budget_of_last_ratio": over_seeds([r["budget_of_last"][k] for r in results]),
        }
    found["regret"] = {
        str(budget): over_seeds([r["regret"][k] for r in results])
        for k, budget in enumerate(BUDGETS)
    }
    return found


def over_seeds(values: list[float]) -> Result:
    value = float(interquartile_mean(np.array(values)))
    per_seed = [round(v, 3) for v in values]
    return {**interval(value, resampled(values)), "per_seed": per_seed}


def ratio_of_means(mine: Result, theirs: Result) -> Result:
    """Ratio of interquartile means with a bootstrap interval; seeds are paired."""
    draws = resampled(mine["per_seed"]) / resampled(theirs["per_seed"])
    return interval(mine["value"] / theirs["value"], draws)


def compare(contenders: Result) -> None:
    """Add each one's ratios of budgets to those of AGAINST."""
    for name, mine in contenders.items():
        others = [other for other in AGAINST if other in contenders and other != name]
        for margin, kind in itertools.product(MARGINS, ("budget", "budget_of_last_ratio")):
            at = f"within {margin}"
            mine[at][kind]["against"] = {
                other: ratio_of_means(mine[at][kind], contenders[other][at][kind])
                for other in others
            }


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
    title = args.config if args.kernel == "matern" else f"{args.config}, {args.kernel} kernel"
    own = numbers.setdefault(title, {"contenders": {}})
    lands = landscapes(args.curves, args.config, args.kernel)
    settings = {"seeds": args.seeds, "cap": CAP, "workers": WORKERS}
    own |= {**settings, "family": family(lands), **provenance()}
    found = own["contenders"]
    for name in args.only or list(family_contenders(shipped(args.config, *RATIOS))):
        started = time.monotonic()
        jobs = [(name, seed, args.config, args.curves, args.kernel) for seed in range(args.seeds)]
        with ProcessPoolExecutor(args.processes) as pool:
            found[name] = summary(list(pool.map(run_one, jobs)))
        compare(found)
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")
        print(f"{name} ({time.monotonic() - started:.0f} s)", flush=True)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default="demo", choices=list(REDUCED))
    add("--curves", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--kernel", default="matern", choices=list(KERNELS), help="of the landscape")
    add("--seeds", type=int, default=30)
    add("--processes", type=int, default=1)
    add("--only", nargs="+", help="contenders to run; the others keep their numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
