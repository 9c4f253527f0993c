"""How many trials importances need: searches of a known function.

One hyperparameter has most of the effect, two have a little, two have none. Each search is judged
after 8, 16, ... trials: is the one that matters most named first, and which fraction do the two
without effect get? Random search and TPESampler, and two levels of noise.

    python -m benchmarks.importance_trials --out benchmarks/results/importances
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from cid_ray.results.provenance import provenance
from cid_ray.search.importances import importances

SPACE: dict[str, BaseDistribution] = {
    "strong": FloatDistribution(0.0, 1.0),
    "weak": FloatDistribution(0.001, 1.0, log=True),
    "kind": CategoricalDistribution(("a", "b", "c")),
    "none": FloatDistribution(0.0, 1.0),
    "none log": FloatDistribution(0.001, 1.0, log=True),
}
WITHOUT_EFFECT = ("none", "none log")
TRIALS = (8, 16, 32, 64, 128)
TOP_FRACTIONS = (0.1, 0.25, 0.5)
NOISES = (0.3, 1.0)  # standard deviation; that of the strong effect is 1.6
SEARCHES = 40


def score(params: dict[str, Any], noise: float, random: np.random.Generator) -> float:
    """mIoU that is best at strong=0.7, weak=0.03 and kind=b."""
    strong = -12 * (params["strong"] - 0.7) ** 2
    weak = -2 * (np.log10(params["weak"]) / 3 + 0.5) ** 2
    kind = 0.4 if params["kind"] == "b" else 0.0
    return float(50 + strong + weak + kind + random.normal(0, noise))


def search(sampler: str, noise: float, trials: int, seed: int) -> optuna.Study:
    """A study of `random` or `TPESampler` on the function."""
    random = np.random.default_rng(seed)
    samplers = {
        "random": optuna.samplers.RandomSampler(seed=seed),
        "TPESampler": optuna.samplers.TPESampler(seed=seed, multivariate=True),
    }
    study = optuna.create_study(direction="maximize", sampler=samplers[sampler])
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, score(trial.params, noise, random))
    return study


def first(study: optuna.Study, trials: int) -> optuna.Study:
    """The study as it was after so many trials."""
    cut = optuna.create_study(direction="maximize")
    cut.add_trials(study.trials[:trials])
    return cut


def measure(sampler: str, noise: float, searches: int) -> list[dict[str, object]]:
    """A line for each number of trials and fraction of best trials."""
    whole = [search(sampler, noise, TRIALS[-1], seed) for seed in range(searches)]
    lines: list[dict[str, object]] = []
    for trials in TRIALS:
        cut = [first(study, trials) for study in whole]
        for top_fraction in TOP_FRACTIONS:
            found = [importances(study, top_fraction)[0] for study in cut]
            named = np.mean([next(iter(each)) == "strong" for each in found])
            without = np.mean([sum(each[key] for key in WITHOUT_EFFECT) for each in found])
            lines.append(
                {
                    "sampler": sampler,
                    "noise": noise,
                    "trials": trials,
                    "top_fraction": top_fraction,
                    "strongest_named_first": round(float(named), 3),
                    "fraction_of_those_without_effect": round(float(without), 3),
                }
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--searches", type=int, default=SEARCHES)
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [
        line
        for sampler in ("random", "TPESampler")
        for noise in NOISES
        for line in measure(sampler, noise, args.searches)
    ]
    result = {**provenance(), "searches": args.searches, "lines": lines}
    (args.out / "importances.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
