"""`--config RUN[:RATIO]` trains with what a search has found; `--set` still comes last."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from cid_ray.cli.run_options import open_run
from cid_ray.config import InputError, build_config
from cid_ray.results.records import RecordWriter
from tests.helpers.ladders import label_ladder, write_ladder
from tests.helpers.records import final, rung, search, small_search

STEPS = 7


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """A search whose best CID trials differ by ratio."""
    folder = tmp_path / "searched"
    writer = RecordWriter(folder)
    for count, weight in ((16, 0.25), (8, 0.75)):
        params = {"loss.relation_weight": weight}
        for record in (
            rung("cid", count, 1, 10, 50.0, params=params),
            final("cid", count, 50.0, number=1, params=params),
            search("cid", count, f"1_{count}-cid-001"),
        ):
            writer.append(record)
    config = build_config({}, {"train.steps": STEPS, "search.ratios": ["1/16", "1/8"]})
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


def options(tmp_path: Path, config: str, *changes: str) -> Namespace:
    known: dict[str, Any] = {"resume": None, "out": str(tmp_path / "out"), "verbosity": 0}
    return Namespace(config=config, changes=list(changes), **known)


@pytest.mark.parametrize(
    ("choice", "ratio", "weight"),
    [("", "1/16", 0.25), (":1/8", "1/8", 0.75), (":1_8-cid-001", "1/8", 0.75)],
)
def test_run_gives_method_ratio_and_hyperparameters(
    searched: Path, tmp_path: Path, choice: str, ratio: str, weight: float
) -> None:
    config, _ = open_run(options(tmp_path, f"{searched}{choice}"), "pool")
    assert (config.method, config.data.ratio, config.loss.relation_weight) == ("cid", ratio, weight)
    assert config.train.steps == STEPS


def test_changes_come_last(searched: Path, tmp_path: Path) -> None:
    changes = ("loss.relation_weight=0.5", "train.steps=9")
    config, _ = open_run(options(tmp_path, f"{searched}:1/8", *changes), "pool")
    assert config.loss.relation_weight == 0.5 and config.train.steps == 9


def test_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a:b.yaml"
    file.write_text("train: {steps: 3}\n")
    config, _ = open_run(options(tmp_path, str(file)), "pool")
    assert config.train.steps == 3


def test_what_is_no_run_is_refused(searched: Path, tmp_path: Path) -> None:
    write_ladder(tmp_path / "ladder", label_ladder())
    cases = {
        f"{searched}:1/3": "neither a ratio nor a trial '1/3', but 1/8, 1/16",
        f"{tmp_path}/none:1/8": "is no run folder, it has no records.jsonl",
        str(tmp_path / "ladder"): "is the folder of a ladder 'labels'",
    }
    for name, rule in cases.items():
        with pytest.raises(InputError, match=rule):
            open_run(options(tmp_path, name), "pool")


def test_search_without_cid_names_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "baselines"
    writer = RecordWriter(folder)
    for record in small_search():
        if record["method"] != "cid":
            writer.append(record)
    (folder / "config.yaml").write_text(build_config({}).to_yaml())
    with pytest.raises(InputError, match="has no best CID trial; name one"):
        open_run(options(tmp_path, str(folder)), "pool")
