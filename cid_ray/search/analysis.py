"""What a search found, as records: how it went, which run won, what mattered, where good
hyperparameters are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from cid_ray.config import InputError
from cid_ray.results.records import Record, RecordReader, of_event
from cid_ray.results.run_kind import refuse_ladder
from cid_ray.search import order
from cid_ray.search.importances import METHOD, importances
from cid_ray.search.space import Space
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_spec import StudyKey, TrialSpec, identity_fields, trial_config
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir

TOP_FRACTION = 1 / 4  # "the best quarter" of the completed trials
WARM_START_POINTS = 3  # per ratio of the earlier run


def winners(store: StudyStore) -> list[TrialSpec]:
    """At each ratio the run that val chose, for every method with several trials: it is to be
    scored on test.
    """
    found = []
    for key in store.search_keys():
        if order.is_tested_at_its_end(key, store.n_trials):
            continue  # its only trial was scored on test when it finished
        run = chosen_run(store, key)
        for trial in store.ranked(key):
            if trial.user_attrs["run"] == run:
                params = {**store.space.fixed, **trial.params}
                config = trial_config(store.config, key, params)
                found.append(TrialSpec(key, str(run), config, trial, params, score_test=True))
    return found


def chosen_run(store: StudyStore, key: StudyKey) -> str | None:
    """The run of a study that val chose: by the mean over repeats where all are there, else by its
    own value.
    """
    ranked = [t.user_attrs["run"] for t in store.ranked(key)]
    means: dict[str, float] = {}
    for repeat_key in store.repeat_keys():
        values = [t.values[0] for t in store.ranked(repeat_key)]
        if repeat_key.repeats_of in ranked and len(values) == store.config.search.repeats.n:
            means[repeat_key.repeats_of] = sum(values)
    if means:
        return max(means, key=lambda run: means[run])
    return next(iter(ranked), None)


def search_records(store: StudyStore) -> list[Record]:
    """A `search` record for every ratio and method."""
    search = store.config.search
    records = []
    for key in store.search_keys():
        candidates = [
            other.repeats_of
            for other in store.repeat_keys()
            if (other.ratio, other.method) == (key.ratio, key.method)
        ]
        parameters = store.space.of_method(key.method).parameters
        fractions, trials = importances(store.studies[key])
        record: Record = {
            "event": "search",
            **identity_fields(key, key.study_name, 0, 0),
            "states": dict(store.state_counts(key)),
            "num_trials": store.n_trials(key),
            "hyperparameters": [p.key for p in parameters],
            "log_hyperparameters": [p.key for p in parameters if p.is_log],
            "best": chosen_run(store, key),
            "metric": search.metric,
            "candidates": candidates,
            "best_hyperparameters": best_hyperparameters(store.ranked(key)),
            "importances": fractions,
            "importance_trials": trials,
            "importance_method": METHOD,
        }
        if search.second_objective:
            record["second_objective"] = search.second_objective
            record["pareto"] = pareto_front(store.studies[key])
        records.append(record)
    return records


def best_hyperparameters(ranked: list[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """For each hyperparameter the best trial's value and the range (or the values) of the best
    quarter.
    """
    if not ranked:
        return {}
    quarter = ranked[: max(1, -(-len(ranked) // round(1 / TOP_FRACTION)))]
    found: dict[str, dict[str, Any]] = {}
    for key, best in ranked[0].params.items():
        values = [t.params[key] for t in quarter if key in t.params]
        if isinstance(ranked[0].distributions[key], CategoricalDistribution):
            found[key] = {"best": best, "values": sorted(set(values), key=str)}
        else:
            found[key] = {"best": best, "low": min(values), "high": max(values)}
    return found


def pareto_front(study: optuna.Study) -> list[dict[str, Any]]:
    """Trials that no other beats in both objectives, best value first."""
    return [
        {
            "run": t.user_attrs["run"],
            "params": t.params,
            "value": t.values[0],
            "cost": t.values[1],
        }
        for t in sorted(study.best_trials, key=lambda t: -t.values[0])
    ]


def warm_start_points(
    path: PathOrUri, space: Space, metric: str
) -> tuple[list[dict[str, Any]], str]:
    """Starting points from an earlier run: the best few CID trials of each of its ratios.

    Args:
        path: its run folder.
        space: the space to search; hyperparameters outside of it are left out.
        metric: by which the trials are ranked.

    Returns:
        The points, and a line that says what they are.

    Raises:
        InputError: not a run folder, or nothing in it fits the space.
    """
    folder = Path(path).parent if Path(path).is_file() else path
    with RunDir(folder) as run_dir:
        run_dir.pull()
        refuse_ladder(run_dir)
        if not (run_dir.local / "records.jsonl").is_file():
            raise InputError(f"--warm-start {path} is not a run folder: it has no records.jsonl")
        reader = RecordReader(run_dir.local)
        finals = of_event(reader.read(), "final")
    by_ratio: dict[str, list[Record]] = {}
    for record in finals:
        searched = record["method"] == "cid" and not record.get("repeats_of")
        if searched and record.get("params") and record.get(metric) is not None:
            by_ratio.setdefault(record["ratio"], []).append(record)
    points: list[dict[str, Any]] = []
    left_out: set[str] = set()
    for records in by_ratio.values():
        for record in sorted(records, key=lambda r: -r[metric])[:WARM_START_POINTS]:
            params = record["params"]
            point = {key: value for key, value in params.items() if in_space(space, key, value)}
            left_out |= params.keys() - point.keys()
            if point and point not in points:
                points.append(point)
    if not points:
        raise InputError(
            f"--warm-start {path}: no completed CID trial there has a hyperparameter that "
            "this space searches"
        )
    message = f"{len(points)} starting points from {path}"
    if reader.skipped:
        message += f"; {reader.skipped}"
    if left_out:
        message += f"; left out, not in this space: {', '.join(sorted(left_out))}"
    return points, message


def in_space(space: Space, key: str, value: Any) -> bool:
    """Whether the space searches the key and can suggest the value."""
    try:
        space.check_point({key: value})
    except InputError:
        return False
    return True
