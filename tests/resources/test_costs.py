"""An hour of a trial costs its part of a machine of the price list, by what it takes more of."""

from __future__ import annotations

from typing import Any

import pytest

from cid_ray.config import Config, InputError, build_config
from cid_ray.resources.capacity import Resources
from cid_ray.resources.costs import machine_hour, with_hour
from cid_ray.resources.prices import Prices
from cid_ray.search.checks import check_search
from cid_ray.storage.packaged import packaged_file
from tests.helpers.tiny_run import TINY

LISTED = Prices.read(packaged_file("prices.yaml", "cluster")).machines


def priced(machine: str, **changes: Any) -> Config:
    return with_hour(build_config({}, {"prices.machine": machine, **changes}))


@pytest.mark.parametrize(
    ("machine", "resources", "part"),
    [
        ("m5.xlarge", Resources(1, 0), 1 / 4),
        ("g5.xlarge", Resources(1, 1), 1),  # all of its one GPU
        ("g5.12xlarge", Resources(24, 1), 1 / 2),  # half of the CPUs, a quarter of the GPUs
        ("g5.12xlarge", Resources(1, 0.5), 1 / 8),
    ],
)
def test_hour_of_a_process_is_its_part_of_the_machine(
    machine: str, resources: Resources, part: float
) -> None:
    usd = LISTED[machine].usd
    assert usd is not None
    assert machine_hour(machine, resources, "key") == pytest.approx(part * usd)


def test_hour_of_a_trial_counts_all_its_workers() -> None:
    usd = LISTED["m5.xlarge"].usd
    assert usd is not None
    one = priced("m5.xlarge", **{"search.cpus_per_trial": 2}).prices
    assert one.hour == pytest.approx(usd / 2) and one.machine is None
    changes = {"distributed.num_workers": 2, "distributed.cpus_per_worker": 1.0}
    assert priced("m5.xlarge", **changes).prices.hour == pytest.approx(usd / 2)


def test_without_a_machine_the_configuration_stays() -> None:
    config = build_config({}, {"prices.hour": 0.5})
    assert with_hour(config) is config


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"prices.machine": "abacus"}, "prices.machine abacus is not in the price list, which has"),
        (
            {"prices.machine": "m5.xlarge", "search.cpus_per_trial": 5},
            "prices.machine=m5.xlarge: a trial does not fit",
        ),
    ],
)
def test_search_with_a_machine_that_cannot_be_priced_does_not_start(
    changes: dict[str, Any], rule: str
) -> None:
    config = build_config(TINY, {"search.trials": 1, "search.space": {}, **changes})
    with pytest.raises(InputError, match=rule):
        check_search(config)


def test_two_prices_of_an_hour_are_refused() -> None:
    with pytest.raises(InputError, match="hour and machine both give the price of an hour"):
        build_config({}, {"prices.hour": 1.0, "prices.machine": "m5.xlarge"})
