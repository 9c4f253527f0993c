"""Everything about a search that can be wrong before it starts."""

from __future__ import annotations

import json
from typing import Literal

import optuna

from cid_ray.config import Config, InputError, error_summary
from cid_ray.config.schema import RATIO_FIELD
from cid_ray.resources.costs import with_hour
from cid_ray.search.plugins import make_pruner, make_sampler
from cid_ray.search.space import Space
from cid_ray.search.trial_spec import StudyKey, trial_config

SAMPLED_TRIALS = 4


def check_search(config: Config) -> Space:
    """The parsed search space.

    Raises:
        InputError: an empty space, a point that makes no valid configuration, a pruner or sampler
            that cannot work, a machine that the price list does not have.
    """
    search = config.search
    if not search.space and search.trials > 1:
        raise InputError(
            "search.space is empty: there is nothing to search; see search_spaces/demo.yaml"
        )
    lists = config.data.split_files
    if lists and not config.data.has_list_per_ratio and len(search.all_ratios) > 1:
        raise InputError(
            f"data.split_files={lists} is one list of labels, but the search has "
            f"{len(search.all_ratios)} ratios: write {RATIO_FIELD} in it for a folder each, such "
            f"as splits/pascal/{RATIO_FIELD}, or search one ratio"
        )
    with_hour(config)  # the report at the end needs the price
    space = Space.parse(search.space, search.points_to_evaluate)
    for ratio in search.ratios:
        base = trial_config(config, StudyKey(ratio, "cid"), {})
        space.check(json.loads(base.model_dump_json()), search.seed)
    make_pruner(config, "cid")
    if search.second_objective and search.pruner.name != "NopPruner":
        raise InputError(
            f"search.second_objective={search.second_objective} makes two objectives, which Optuna "
            "cannot prune: "
            f"search.pruner.name is {search.pruner.name!r}, must be 'NopPruner'"
        )
    check_sampler(config, space)
    return space


def check_sampler(config: Config, space: Space) -> None:
    """Let the sampler suggest a few trials: a missing package or an unsupported parameter shows
    now.
    """
    name = config.search.sampler.name
    directions = directions_of(config)
    study = optuna.create_study(directions=directions)
    for number in range(SAMPLED_TRIALS):
        study.sampler = make_sampler(config, 0, number)
        try:
            trial = study.ask()
            space.suggest(trial)
            study.tell(trial, [float(number % 3)] * len(directions))
        except Exception as error:
            raise InputError(
                f"search.sampler.name is {name!r}, which cannot sample this space: "
                f"{error_summary(error)}"
            ) from None


def directions_of(config: Config) -> list[Literal["maximize", "minimize"]]:
    """Maximize mIoU; minimize the second objective where there is one."""
    return ["maximize", "minimize"] if config.search.second_objective else ["maximize"]
