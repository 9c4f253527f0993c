"""Records of made-up searches with many trials of a space with every kind of hyperparameter."""

from __future__ import annotations

import numpy as np

from cid_ray.results.records import Record
from tests.helpers.records import PED_ANOVA, full_trial, run_name, search

KINDS = ("self", "cross", "transfer", "class")
WITH_TEMPERATURE = ("cross", "class")
LOG_KEYS = ["loss.relation_weight", "loss.relation_temperature"]
KEYS = ["loss.relation_kind", *LOG_KEYS, "loss.conf_thresh", "loss.pseudo_burn_in"]
BEST_THRESHOLD = {64: 0.9, 16: 0.6}  # by label count
BEST_KIND = "transfer"


def searched(trials: int, seed: int = 0) -> list[Record]:
    """Two ratios. The best threshold moves, `transfer` is the best kind, burn-in has no effect."""
    random = np.random.default_rng(seed)
    records: list[Record] = []
    for count, best in BEST_THRESHOLD.items():
        with_temperature = 0
        for number in range(trials):
            kind = str(random.choice(KINDS))
            threshold = float(random.uniform(0.5, 0.98))
            params = {
                "loss.relation_kind": kind,
                "loss.relation_weight": float(10 ** random.uniform(-2, 0)),
                "loss.conf_thresh": threshold,
                "loss.pseudo_burn_in": float(random.uniform(0, 0.6)),
            }
            if kind in WITH_TEMPERATURE:
                params["loss.relation_temperature"] = float(0.05 * 10 ** random.uniform(0, 1))
                with_temperature += 1
            score = 50 - 60 * (threshold - best) ** 2
            score += 4 * (kind == BEST_KIND) + random.normal(0, 0.5)
            records += full_trial("cid", count, number, float(score), **params)
        conditional = {"loss.relation_temperature": with_temperature}
        records.append(
            search(
                "cid",
                count,
                run_name("cid", count),
                states={"COMPLETE": trials},
                hyperparameters=KEYS,
                log_hyperparameters=LOG_KEYS,
                importances=dict(zip(KEYS, (0.25, 0.1, 0.05, 0.55, 0.05), strict=True)),
                importance_trials=dict.fromkeys(KEYS, trials) | conditional,
                importance_method=PED_ANOVA,
            )
        )
    return records
