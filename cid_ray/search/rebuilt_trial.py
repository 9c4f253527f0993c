"""One trial of a study, rebuilt from its records: finished only if they show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import Config
from cid_ray.results.records import Record
from cid_ray.search.analysis import in_space
from cid_ray.search.space import Space
from cid_ray.search.trial_states import FAILURE_REASON

LOST = "its hyperparameters are in no record and in no study: the run folder was damaged"


def rebuilt_trial(
    before: FrozenTrial | None, records: Sequence[Record], config: Config, space: Space
) -> FrozenTrial:
    """A trial of a study, finished only if its records show it.

    Args:
        before: the trial as the study had it, if it is known.
        records: those of the trial, in order.
        config: the search's configuration.
        space: its parsed space.
    """
    state, values, reason = _end_of(before, records, config)
    if before is None:
        params, distributions = _searched_params(records, space)
        user_attrs, system_attrs = {}, {}
    else:
        params, distributions = before.params, before.distributions
        user_attrs, system_attrs = dict(before.user_attrs), before.system_attrs
    if records:
        user_attrs["run"] = records[0]["run"]
    if reason:
        user_attrs[FAILURE_REASON] = reason
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=params,
        distributions=distributions,
        user_attrs=user_attrs,
        system_attrs=system_attrs,
        intermediate_values=_rung_values(records, config),
    )


def _end_of(
    before: FrozenTrial | None, records: Sequence[Record], config: Config
) -> tuple[TrialState, list[float] | None, str]:
    """State, values and reason of failure that the records show."""
    by_event = {record["event"]: record for record in records}
    final = by_event.get("final")
    end = by_event.get("trial", {}).get("state")
    was = before.state if before else None
    if final and final[config.search.metric] is not None:
        objective = config.search.second_objective
        if not objective:
            return TrialState.COMPLETE, [final[config.search.metric]], ""
        if objective in final:
            return TrialState.COMPLETE, [final[config.search.metric], final[objective]], ""
    if "rung" in by_event and not final and (end == "pruned" or was == TrialState.PRUNED):
        return TrialState.PRUNED, None, ""
    if end == "failed" or "failed" in by_event or was == TrialState.FAIL:
        reason = by_event.get("trial", {}).get("reason") or by_event.get("failed", {}).get("reason")
        return TrialState.FAIL, None, str(reason or "unknown")
    if before is None and not records:
        return TrialState.FAIL, None, LOST
    if was == TrialState.WAITING and not records:
        return TrialState.WAITING, None, ""
    return TrialState.RUNNING, None, ""


def _searched_params(
    records: Sequence[Record], space: Space
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Hyperparameters that the sampler suggested, from the records of a trial that searches."""
    with_params = [record for record in records if record.get("params")]
    if not with_params or with_params[-1]["repeats_of"]:
        return {}, {}
    method = with_params[-1]["method"]
    distributions = {p.key: p.distribution for p in space.of_method(method).parameters}
    params = {
        key: value
        for key, value in with_params[-1]["params"].items()
        if key in distributions and in_space(space, key, value)
    }
    return params, {key: distributions[key] for key in params}


def _rung_values(records: Sequence[Record], config: Config) -> dict[int, float]:
    """images_seen -> what the pruner saw, as `pruned_at_rung` reports it."""
    if config.search.second_objective:
        return {}  # Optuna keeps none of trials with two objectives
    found = {}
    for record in records:
        if record["event"] == "rung":
            value = record[config.search.metric]
            found[record["images_seen"]] = float("nan") if value is None else value
    return found
