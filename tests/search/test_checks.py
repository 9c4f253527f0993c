"""Laws of the checks before a search: what cannot run is an InputError, and nothing was started."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.chaos import simulated_config
from cid_ray.config import InputError, build_config
from cid_ray.search.checks import check_search
from tests.helpers.tiny_run import TINY


def test_check_search_point_without_valid_config_names_key() -> None:
    config = build_config(TINY, {"search.space": {"loss.conf_thresh": {"float": [0.5, 1.5]}}})
    with pytest.raises(InputError, match=r"loss\.conf_thresh"):
        check_search(config)


def test_one_list_of_labels_for_several_ratios_is_rejected() -> None:
    changes: dict[str, Any] = {"search.ratios": ["92", "183"]}
    one_list: dict[str, Any] = {"data.split_files": "splits/pascal/92"}
    of_each: dict[str, Any] = {"data.split_files": "splits/pascal/{ratio}"}
    with pytest.raises(InputError, match=r"write \{ratio\} in it .* splits/pascal/\{ratio\}"):
        check_search(simulated_config(**changes | one_list))
    check_search(simulated_config(**one_list | {"search.ratios": ["92"]}))
    check_search(simulated_config(**changes | of_each))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search.sampler.name": "TPESampl"}, ["TPESampl", "TPESampler"]),
        ({"search.pruner.name": "Hyperban"}, ["HyperbandPruner"]),
        (
            {
                "search.pruner": {
                    "name": "SuccessiveHalvingPruner",
                    "args": {"reduction_factr": 3},
                }
            },
            ["reduction_factr", "reduction_factor"],
        ),
        (
            {"search.pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 1}}},
            ["reduction_factor"],
        ),
    ],
)
def test_check_search_unknown_optuna_name_names_nearest(
    changes: dict[str, Any], words: list[str]
) -> None:
    space = {"loss.relation_weight": {"float": [0.0, 1.0]}}
    with pytest.raises(InputError) as error:
        check_search(build_config({**TINY, "search": {"space": space}}, changes))
    assert all(word in str(error.value) for word in words)


def test_check_search_sampler_that_cannot_sample_space_is_refused() -> None:
    arguments = {"search_space": {"loss.relation_weight": [0.1]}}
    sampler = {"name": "GridSampler", "args": arguments}
    changes: dict[str, Any] = {"search.sampler": sampler}
    with pytest.raises(InputError, match=r"GridSampler.*cannot sample this space"):
        check_search(simulated_config(**changes))


def test_check_search_two_objectives_with_pruner_is_refused() -> None:
    changes: dict[str, Any] = {"search.second_objective": "seconds"}
    with pytest.raises(InputError, match="NopPruner"):
        check_search(simulated_config(**changes))
