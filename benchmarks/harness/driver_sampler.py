"""Does TPESampler suggest worse when it sees the best and newest trials of a study only?

A made-up score over five hyperparameters, one of them conditional, measured with noise. Trials run
concurrently; half of them are pruned. What counts are the true scores of what was suggested.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
from optuna.trial import TrialState

from cid_ray.search import sampler_view
from cid_ray.search.journal import open_journal

WHOLE = 10**9


def suggest(trial: optuna.Trial) -> float:
    """Suggested hyperparameters, as their true score."""
    weight = trial.suggest_float("weight", 0.01, 1, log=True)
    kind = trial.suggest_categorical("kind", ("self", "cross"))
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    threshold = trial.suggest_float("threshold", 0.0, 1.0)
    score = 60 - 4 * math.log10(weight / 0.1) ** 2 - 6 * math.log10(rate / 5e-3) ** 2
    score -= 8 * (threshold - 0.8) ** 2
    score += 1.5 * math.sin(9 * threshold) * math.sin(4 * math.log10(weight))
    if kind == "self":
        return score + 1
    return score + 2 - 60 * (trial.suggest_float("temperature", 0.05, 0.5) - 0.17) ** 2


def compare_views(
    trials: int, concurrent: int, seeds: int, scratch: Path | None
) -> list[dict[str, Any]]:
    """One row for each seed and view: the whole study, and what a search shows of it."""
    usual = sampler_view.SEEN_FINISHED, sampler_view.SEEN_RUNNING
    rows = []
    for seed in range(seeds):
        for name, (finished, running) in {"whole": (WHOLE, WHOLE), "view": usual}.items():
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                row = run_study(Path(folder), trials, concurrent, seed, finished, running)
            rows.append({"view": name, "seed": seed, **row})
            print(rows[-1], flush=True)
    return rows


def run_study(
    folder: Path, trials: int, concurrent: int, seed: int, finished: int, running: int
) -> dict[str, Any]:
    study = optuna.create_study(
        storage=open_journal(folder / "journal"), study_name="s", direction="maximize"
    )
    chance = random.Random(seed)
    flying: list[tuple[optuna.Trial, float]] = []
    truth = []
    before = time.process_time()
    with mock.patch.object(sampler_view, "SEEN_RUNNING", running):
        for number in range(trials):
            sampler = optuna.samplers.TPESampler(
                seed=seed * 100_003 + number, multivariate=True, group=True, constant_liar=True
            )
            # More than are shown by default only if the sampler waits for as many.
            trial = sampler_view.study_for_sampler(study, sampler, finished).ask()
            truth.append(suggest(trial))
            flying.append((trial, truth[-1]))
            if len(flying) >= concurrent:
                finish(study, *flying.pop(chance.randrange(len(flying))), chance)
    return {
        "trials": trials,
        "concurrent": concurrent,
        "best": round(max(truth), 3),
        "last_quarter": round(statistics.mean(truth[-trials // 4 :]), 3),
        "ms_per_trial": round(1000 * (time.process_time() - before) / trials, 1),
    }


def finish(study: optuna.Study, trial: optuna.Trial, score: float, chance: random.Random) -> None:
    measured = score + chance.gauss(0, 1)
    if chance.random() < 0.5:
        study.tell(trial.number, measured)
    else:
        trial.report(measured - 5, 1)
        study.tell(trial.number, state=TrialState.PRUNED)
