"""Law: configs, search spaces, price lists and cluster files of any content are read, or refused in
one line.

A config that is read is written and read again as the same one. Of a space points can be drawn,
and a cluster's capacity can be computed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import Config, build_config, known_keys, load_config
from cid_ray.resources.capacity import ClusterCapacity, PlacementRequest, Resources
from cid_ray.resources.cluster_files import check_with_ray, read_cluster_file
from cid_ray.resources.prices import Prices
from cid_ray.search.space import Space
from cid_ray.storage.packaged import packaged_file
from tests.helpers.fuzzing import (
    Change,
    Edit,
    as_yaml,
    change,
    changes,
    damage,
    edits,
    fuzz,
    leaves,
    result_or_refusal,
    trees,
    written,
)

CLUSTER_FILES = {
    name: packaged_file(name, "cluster").read_bytes()
    for name in ("aws.yaml", "gcp.yaml", "onprem.yaml", "kuberay-raycluster.yaml")
}
CLUSTER_FILES["kuberay-rayjob.yaml"] = packaged_file("kuberay-rayjob.yaml", "cluster").read_bytes()
CONFIG = b"""\
method: cid
data: {table: demo, ratio: 1/16, crop_size: [64, 96]}
model:
  decoder: fpn
  encoder: "resnet18"  # of timm
  decoder_options: {decoder_dropout: 0.0}
optim: &optim {name: adamw, lr: 1e-3, clip_norm: null}
train: {steps: 300, rungs: [0.5, 1.0]}
search:
  ratios: [1/16, '1/8']
  space:
    loss.relation_weight: {float: [0.01, 3.0], log: true}
    loss.relation_kind: {choice: [self, cross]}
"""
MACHINES = Prices.read(packaged_file("prices.yaml", "cluster")).resources()
WHOLE_CONFIG = yaml.safe_load(Config().to_yaml())
SPACE: dict[str, Any] = {
    "loss.relation_weight": {"float": [0.01, 3.0], "log": True},
    "data.batch_size": {"int": [4, 16], "step": 4},
    "loss.relation_kind": {"choice": ["self", "cross", "transfer", "class"]},
    "loss.relation_temperature": {"float": [0.05, 1.0], "when": {"loss.relation_kind": ["cross"]}},
    "loss.style_target": "unlabeled",
}
POINT = {"loss.relation_weight": 0.1, "data.batch_size": 8, "loss.relation_kind": "self"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


# ---- config ----


def check_config(path: Path) -> None:
    config = result_or_refusal(lambda: load_config(path), path, "`")
    if config is not None:
        config.fingerprint()
        assert load_config(written(path, config.to_yaml().encode())) == config


@fuzz(0.3)
@given(edits=edits)
def test_damaged_config(folder: Path, edits: list[Edit]) -> None:
    check_config(written(folder / "config.yaml", damage(CONFIG, edits)))


@fuzz(0.4)
@given(changes=changes)
def test_changed_config(folder: Path, changes: list[Change]) -> None:
    check_config(written(folder / "config.yaml", as_yaml(change(WHOLE_CONFIG, changes))))


@fuzz(0.3)
@given(tree=trees)
def test_foreign_config(folder: Path, tree: Any) -> None:
    check_config(written(folder / "config.yaml", as_yaml(tree)))


keys = st.one_of(st.sampled_from(known_keys()), st.text(max_size=12))
values = st.one_of(st.text(max_size=20), trees.map(lambda tree: as_yaml(tree).decode()))


@fuzz()
@given(settings=st.lists(st.tuples(keys, st.sampled_from(["=", "", "=="]), values), max_size=3))
def test_set_options(folder: Path, settings: list[tuple[str, str, str]]) -> None:
    texts = ["".join(parts) for parts in settings]
    config = result_or_refusal(lambda: load_config(None, texts), "--set", "`")
    if config is not None:
        path = written(folder / "set.yaml", config.to_yaml().encode())
        assert load_config(path) == config


# ---- search space ----


@fuzz()
@given(space=changes, points=st.one_of(st.just([]), changes))
def test_changed_search_space(space: list[Change], points: list[Change]) -> None:
    entries = change(SPACE, space)
    point = change(POINT, points)

    def read() -> Space:
        search = {"space": entries, "points_to_evaluate": [point]}
        config = build_config({"search": search})
        return Space.parse(config.search.space, config.search.points_to_evaluate)

    parsed = result_or_refusal(read, "search.space", "search.points_to_evaluate")
    if parsed is not None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = parsed.suggest(study.ask())
        result_or_refusal(lambda: build_config({}, drawn), "`")
        parsed.check_point({p.key: drawn[p.key] for p in parsed.parameters if p.key in drawn})


# ---- cluster files and prices ----


def check_capacity(capacity: ClusterCapacity | None) -> None:
    if capacity is None:
        return
    assert type(capacity.max_nodes) is int and capacity.max_nodes >= 0
    for each in capacity.node_types:
        assert type(each.min_nodes) is type(each.max_nodes) is int
        assert 0 <= each.min_nodes <= each.max_nodes
        for amount in (each.resources.cpus, each.resources.gpus):
            assert math.isfinite(amount) and amount >= 0
    assert capacity.max_concurrent(PlacementRequest(Resources(1, 0))) >= 0
    assert str(capacity)


@fuzz(0.5)
@given(name=st.sampled_from(sorted(CLUSTER_FILES)), edits=edits)
def test_damaged_cluster_file(folder: Path, name: str, edits: list[Edit]) -> None:
    path = written(folder / name, damage(CLUSTER_FILES[name], edits))
    check_capacity(result_or_refusal(lambda: read_cluster_file(path, MACHINES), path))


@fuzz(0.5)
@given(name=st.sampled_from(sorted(CLUSTER_FILES)), changes=changes)
def test_changed_cluster_file(folder: Path, name: str, changes: list[Change]) -> None:
    tree = next(iter(yaml.safe_load_all(CLUSTER_FILES[name])))
    path = written(folder / name, as_yaml(change(tree, changes)))
    capacity = result_or_refusal(lambda: read_cluster_file(path, MACHINES), path)
    check_capacity(capacity)
    if capacity is not None:
        result_or_refusal(lambda: check_with_ray(path), path)


PRICES = packaged_file("prices.yaml", "cluster").read_bytes()


def check_prices(path: Path) -> None:
    prices = result_or_refusal(lambda: Prices.read(path), path)
    for machine in prices.machines.values() if prices else ():
        assert 0 < machine.cpus < math.inf and 0 <= machine.gpus < math.inf
        assert all(cost is None or 0 < cost < math.inf for cost in (machine.usd, machine.spot))


@fuzz(0.4)
@given(edits=edits)
def test_damaged_price_list(folder: Path, edits: list[Edit]) -> None:
    check_prices(written(folder / "prices.yaml", damage(PRICES, edits)))


@fuzz(0.4)
@given(changes=changes)
def test_changed_price_list(folder: Path, changes: list[Change]) -> None:
    check_prices(written(folder / "prices.yaml", as_yaml(change(yaml.safe_load(PRICES), changes))))


@fuzz(0.2)
@given(value=leaves)
def test_machine_of_any_size(folder: Path, value: Any) -> None:
    tree = {"date": "2026-01-01", "machines": {"one": {"cpus": value}, "two": value}}
    check_prices(written(folder / "prices.yaml", as_yaml(tree)))
