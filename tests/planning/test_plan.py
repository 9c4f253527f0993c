"""Contract of `python -m cid_ray.scale plan`: records, page, sentence, and how it refuses.

The run is the kept one on CamVid; the cluster files are ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from cid_ray import scale
from cid_ray.config import InputError, load_config
from cid_ray.planning.fleet import make_fleet
from cid_ray.planning.plan import parse_nodes, recommended
from cid_ray.resources.cluster_files import idle_timeout_s, read_cluster_file
from cid_ray.resources.costs import placement_cost
from cid_ray.resources.prices import Prices
from cid_ray.resources.requests import trial_request
from cid_ray.results.plan_page import PAGE_FILE, write_plan_page
from cid_ray.results.plan_text import describe_plan, recommendation
from cid_ray.results.plan_types import PlanRecord
from cid_ray.results.records import Record, read_records
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.hostile_text import HARMLESS, HOSTILE, STYLE, Skeleton
from tests.helpers.simulated_plans import planned_config

ROOT = Path(__file__).resolve().parents[2]
AWS = ROOT / "cluster" / "aws.yaml"
KEPT = ["--space", str(KEPT_RUN / "config.yaml"), "--run", str(KEPT_RUN)]


def plan(out: Path, *args: str, cluster: str = str(AWS)) -> list[Record]:
    """The records of a short plan."""
    command = ["plan", *KEPT, "--cluster", cluster, "--out", str(out), "--simulations", "4"]
    assert scale.main([*command, "--nodes", "1,2,4", *args]) == 0
    return read_records(out)


# ---- records, page, text ----


def test_plan_writes_typed_records_and_prints_only_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = plan(tmp_path / "plan", "--preemptions-per-hour", "0.1")
    shown = capsys.readouterr().out
    assert [record["nodes"] for record in records] == [1, 2, 4]
    for record in records:
        TypeAdapter(PlanRecord).validate_python(record, strict=True)
        path = sum(part["seconds"] for part in record["critical_path"])
        low, high = record["makespan_s"]["low"], record["makespan_s"]["high"]
        assert low <= record["makespan_s"]["median"] <= high
        assert low - 0.1 <= path <= high + 0.1
    # All lines about the plan are made of the records alone.
    assert "\n".join(describe_plan(records)) in shown


def with_names(records: list[Record], name: str) -> list[Record]:
    """The records with another text wherever data may have one."""
    return [
        {
            **record,
            **dict.fromkeys(("cluster", "node_type", "durations_of", "run", "ratio"), name),
            "critical_path": [{**part, "what": name} for part in record["critical_path"]],
            "methods": [{**one, "method": name} for one in record["methods"]],
            "notes": [name],
        }
        for record in records
    ]


def test_hostile_texts_add_no_element_and_no_attribute_to_the_page(tmp_path: Path) -> None:
    records = plan(tmp_path / "plan")

    def page(name: str) -> Skeleton:
        write_plan_page(with_names(records, name), tmp_path)
        return Skeleton((tmp_path / PAGE_FILE).read_text())

    expected = page(HARMLESS)
    for text in HOSTILE.values():
        found = page(text)
        assert found.elements == expected.elements
        assert found.figure_elements == expected.figure_elements
        assert found.declarations == expected.declarations
        assert found.addresses == expected.addresses
        assert all(STYLE.fullmatch(style) for style in found.styles)
    assert all(address.startswith(("data:", "#")) for address in expected.addresses)


def test_same_command_writes_the_same_numbers(tmp_path: Path) -> None:
    first, second = (plan(tmp_path / name, "--preemptions-per-hour", "1") for name in ("a", "b"))
    for record in (*first, *second):
        del record["timestamp"], record["run"]
    assert first == second


def test_speed_divides_training_and_unknown_price_stays_unknown(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    listed = yaml.safe_load((ROOT / "cluster" / "prices.yaml").read_text())
    del listed["machines"]["m5.xlarge"]  # the head's
    tree = yaml.safe_load(AWS.read_text())
    prices.write_text(yaml.safe_dump(listed))
    file = tmp_path / "aws.yaml"
    file.write_text(yaml.safe_dump(tree))
    slow = plan(tmp_path / "slow", "--prices", str(prices), cluster=str(file))
    fast = plan(tmp_path / "fast", "--speed", "10")
    assert all(record["usd"] is None for record in slow)
    assert "price unknown" in recommendation(slow)
    for one, other in zip(slow, fast, strict=True):
        assert one["makespan_s"]["median"] > 3 * other["makespan_s"]["median"]
        assert other["usd"]["median"] > 0


# ---- the same numbers as `cluster check` ----


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay-raycluster"])
def test_full_cluster_costs_what_cluster_check_says(name: str) -> None:
    path = ROOT / "cluster" / f"{name}.yaml"
    prices = Prices.read_for(path)
    capacity = read_cluster_file(path, prices.resources())
    config = planned_config()
    request, count = trial_request(config, capacity)
    expected = placement_cost(capacity, request, count, prices)
    assert expected is not None
    nodes = max(expected.nodes.values())
    fleet = make_fleet(config, capacity, prices.price_of, nodes)
    assert fleet.max_concurrent == count
    assert fleet.usd_per_hour == pytest.approx(expected.usd_per_hour)


def test_idle_timeout_is_the_cluster_files() -> None:
    assert idle_timeout_s(yaml.safe_load(AWS.read_text())) == 600
    assert idle_timeout_s({"provider": {}}) == 300
    spec = {"autoscalerOptions": {"idleTimeoutSeconds": 90}}
    assert idle_timeout_s({"kind": "RayCluster", "spec": spec}) == 90
    assert idle_timeout_s({"kind": "RayJob", "spec": {"rayClusterSpec": spec}}) == 90
    assert idle_timeout_s({"kind": "RayJob", "spec": {"rayClusterSpec": {}}}) == 60


# ---- numbers of nodes ----


def test_dots_continue_the_factor() -> None:
    assert parse_nodes("1,2,4,...,32") == [1, 2, 4, 8, 16, 32]
    assert parse_nodes("1, 10, ..., 1000") == [1, 10, 100, 1000]
    assert parse_nodes("1,2,4,...,1000")[-3:] == [256, 512, 1000]
    assert parse_nodes("7") == [7]


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1,x", "...,4", "1,...,4", "2,1,...", "1.5", "9" * 99]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--nodes"):
        parse_nodes(text)


def test_recommended_is_the_last_size_that_pays() -> None:
    def record(nodes: int, seconds: float) -> Record:
        return {"nodes": nodes, "makespan_s": {"median": seconds}}

    records = [record(1, 100), record(2, 55), record(4, 50), record(8, 49)]
    assert recommended(records, 0.1) == records[1]
    assert recommended(records, 0.05) == records[2]
    assert recommended(records, 0.001) is None
    # From 1 to 4 nodes are two doublings, of which each saves 10 %.
    assert recommended([record(1, 100), record(4, 80.9)], 0.1) is None
    assert recommended([record(1, 100), record(4, 81.1)], 0.1) == record(1, 100)


@pytest.mark.parametrize(("worth", "marked"), [("0.9", [1]), ("0.0001", [])])
def test_number_of_nodes_is_marked_only_where_the_sentence_recommends_it(
    tmp_path: Path, worth: str, marked: list[int]
) -> None:
    """The trials of the kept run keep four nodes busy, so less than a thousandth is worth them."""
    records = plan(tmp_path / "plan", "--worth", worth)
    page = (tmp_path / "plan" / PAGE_FILE).read_text()
    assert [record["nodes"] for record in records if record["recommended"]] == marked
    assert ("a doubling may still save" in recommendation(records)) == (not marked)
    for sign in ("* recommended", "1 *", ">recommended<"):
        assert (sign in page) == bool(marked), sign
    assert not marked or "4 *" not in page


# ---- bad input ----


def refuse(match: str, *args: str) -> None:
    with pytest.raises(InputError, match=match):
        scale.main(["plan", *args])


def test_without_a_run_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    refuse(
        r"is unknown; run it with few trials.*cid_ray\.tune.*--run",
        *("--space", "demo", "--cluster", "aws", "--out", str(tmp_path / "out")),
    )
    assert not (tmp_path / "out").exists()


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    aws = ["--cluster", "aws", "--out", str(out)]
    refuse("is not a run folder", "--space", "demo", *aws, "--run", str(tmp_path))
    refuse(
        "train.rungs", "--space", "camvid", *aws, "--run", str(KEPT_RUN), "--set=train.rungs=[.1,1]"
    )
    refuse("--speed is 0.0", *KEPT, *aws, "--speed", "0")
    refuse("--node-start is -1.0", *KEPT, *aws, "--node-start", "-1")
    refuse("--worth is nan", *KEPT, *aws, "--worth", "nan")
    refuse("needs a file with `resources`", *KEPT, "--cluster", "onprem", "--out", str(out))
    refuse("distributed.num_workers=1", *KEPT, *aws, "--set=distributed.num_workers=2")
    refuse("has no trial of unimatch_v2", *KEPT, *aws, "--set=search.baselines=[unimatch_v2]")
    refuse("folder on this machine", *KEPT, "--cluster", "aws", "--out", "s3://bucket/plan")
    assert not out.exists()


def test_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse("is not empty", *KEPT, "--cluster", "aws", "--out", str(tmp_path))


def test_differences_that_change_a_steps_time_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = load_config(KEPT_RUN / "config.yaml").train.steps
    changes = ["--set=data.crop_size=64", f"--set=train.steps={2 * steps}"]
    plan(tmp_path / "out", *changes)
    shown = capsys.readouterr().out
    assert "another configuration: data.crop_size" in shown
    assert f"have {steps} steps, those of the plan {2 * steps}" in shown


def test_records_are_one_json_object_a_line(tmp_path: Path) -> None:
    records: list[Any] = plan(tmp_path / "out")
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["nodes"] for line in lines] == [one["nodes"] for one in records]
