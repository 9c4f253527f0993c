"""What a search found, as record rows: how it went, which run won, what mattered, where the good settings lie."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import InputError
from cid_ray.home import Home
from cid_ray.places import Name
from cid_ray.results.record import Row, of_event, read_rows
from cid_ray.search.arms import Arm, Assignment, trial_config
from cid_ray.search.space import Space
from cid_ray.search.studies import Studies

LEAST_FOR_IMPORTANCES = 4  # trials of full length
IMPORTANCES = (
    "PED-ANOVA over trials of full length: how well a setting alone tells the best tenth of them from the rest"
)
TOP_SHARE = 4  # the best quarter of the trials of full length
WARM_POINTS = 3  # per ratio of the earlier run


def winners(studies: Studies) -> list[Assignment]:
    """At each ratio and for each method that has many trials, the run that val chose: it is to be tested."""
    found = []
    for arm in studies.search_arms():
        name = chosen(studies, arm)
        trial = next((t for t in studies.ranked(arm) if t.user_attrs["run"] == name), None)
        if trial and (arm.method == "cid" or studies.wanted(arm) > 1):
            params = {**studies.space.fixed, **trial.params}
            found.append(Assignment(arm, str(name), trial_config(studies.config, arm, params), trial, params, True))
    return found


def chosen(studies: Studies, arm: Arm) -> str | None:
    """The run of an arm that val chose: the best mean over its repeats where it was repeated, else the best value."""
    ranked = [t.user_attrs["run"] for t in studies.ranked(arm)]
    repeats = {a.confirms: [t.values[0] for t in studies.ranked(a)] for a in studies.studies if a.confirms in ranked}
    full = {run: values for run, values in repeats.items() if len(values) == studies.config.search.confirm.repeats}
    return max(full, key=lambda run: sum(full[run])) if full else next(iter(ranked), None)


def search_rows(studies: Studies) -> list[Row]:
    """A row for every ratio and method."""
    search, rows = studies.config.search, []
    for arm in studies.search_arms():
        ranked = studies.ranked(arm)
        row: Row = {
            "event": "search",
            "run": arm.study_name,
            "ratio": arm.ratio,
            "method": arm.method,
            "states": dict(studies.states()[arm]),
            "wanted": studies.wanted(arm),
            "best": chosen(studies, arm),
            "metric": search.metric,
            "candidates": [
                a.confirms for a in studies.studies if a.confirms and (a.ratio, a.method) == (arm.ratio, arm.method)
            ],
            "top": top_settings(ranked),
            "importances": importances(studies.studies[arm]),
            "importance_method": IMPORTANCES,
        }
        if search.cost:
            row |= {"cost": search.cost, "pareto": pareto(studies.studies[arm])}
        rows.append(row)
    return rows


def importances(study: optuna.Study) -> dict[str, float]:
    """Optuna's importances over trials of full length only; empty when there are too few to say."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < LEAST_FOR_IMPORTANCES:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()  # with a target it takes the lowest for the best
    target = (lambda t: -t.values[0]) if len(study.directions) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few trials: the page says it in words
        try:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)
        except (ValueError, RuntimeError):
            return {}
    return {key: float(value) for key, value in found.items() if value == value}


def top_settings(ranked: list[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """Each setting's best value, and what the best quarter of the trials of full length took."""
    if not ranked:
        return {}
    quarter = ranked[: max(1, -(-len(ranked) // TOP_SHARE))]
    found = {}
    for key, best in ranked[0].params.items():
        values = [t.params[key] for t in quarter if key in t.params]
        if isinstance(ranked[0].distributions[key], CategoricalDistribution):
            found[key] = {"best": best, "values": sorted(set(values), key=str)}
        else:
            found[key] = {"best": best, "low": min(values), "high": max(values)}
    return found


def pareto(study: optuna.Study) -> list[dict[str, Any]]:
    """Trials that none beats in both objectives, best value first."""
    front = sorted(study.best_trials, key=lambda t: -t.values[0])
    return [{"run": t.user_attrs["run"], "params": t.params, "value": t.values[0], "cost": t.values[1]} for t in front]


def warm_start(path: Name, space: Space, metric: str) -> tuple[list[dict[str, Any]], str]:
    """Starting points from an earlier run's records, the best few of each of its ratios; and in words what they are."""
    with Home(Path(path).parent if Path(path).is_file() else path) as home:
        home.fetch()
        if not (home.here / "rows.jsonl").is_file():
            raise InputError(f"--warm-start {path} is not a run's folder: it has no rows.jsonl")
        earlier = of_event(read_rows(home.here), "final")
    finals: dict[str, list[Row]] = {}
    for row in earlier:
        if row["method"] == "cid" and "confirms" not in row and row.get("params") and row.get(metric) is not None:
            finals.setdefault(row["ratio"], []).append(row)
    points: list[dict[str, Any]] = []
    dropped: set[str] = set()
    for rows in finals.values():
        for row in sorted(rows, key=lambda r: -r[metric])[:WARM_POINTS]:
            point = {key: value for key, value in row["params"].items() if fits(space, key, value)}
            dropped |= row["params"].keys() - point.keys()
            if point and point not in points:
                points.append(point)
    if not points:
        raise InputError(
            f"--warm-start {path}: no CID trial of full length there has a setting that this space searches"
        )
    words = f"{len(points)} starting points from {path}"
    return points, words + (f"; left out, not in this space: {', '.join(sorted(dropped))}" if dropped else "")


def fits(space: Space, key: str, value: Any) -> bool:
    try:
        space.check_point({key: value})
    except InputError:
        return False
    return True
