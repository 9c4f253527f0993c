"""`pool` end to end: what is planted in a pool is found, kept, shown and left out; what it refuses.

Reference: a table of the demo's images with copies, a dark image and another size planted in it.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cid_ray
from cid_ray.config import Config, InputError, build_config
from cid_ray.data.image_codec import encode_png
from cid_ray.data.splits import make_split
from cid_ray.data.table import IGNORED
from cid_ray.data.table_copy import copied_meta, copied_row
from cid_ray.data.table_writer import TableWriter
from cid_ray.pool import main as pool
from cid_ray.results.pool_section import describe_pool, newest_pool
from cid_ray.results.record_lines import parse_line
from cid_ray.results.records import Record, read_records
from cid_ray.results.report_page import write_page
from cid_ray.train import main as train
from tests.helpers.image_tables import make_unreadable, table_row

IMAGES = 40  # of the pool: more than the table below has
NUM_POOL = 24
PLANTED = ("copy of val", "copy of test", "copy of labeled", "copy of pool", "dark", "large")


def add_planted(writer: TableWriter, sources: dict[str, int]) -> None:
    """Unlabeled rows, named after what is odd about them."""
    table = cid_ray.open_table("demo")
    for name, row in sources.items():
        image, _ = table.read(row, mask=False)
        pixels = np.asarray(image).astype(float)
        if name == "dark":
            pixels = pixels * 0.02
        if name == "large":
            pixels = np.asarray(image.resize((image.width * 3, image.height * 3))).astype(float)
        if name.startswith("copy"):
            pixels = pixels + 6
        array = pixels.clip(0, 255).astype(np.uint8)
        size = array.shape[:2]
        writer.add(table_row(name, encode_png(array), group="planted", size=size))


@pytest.fixture(scope="module")
def planted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a pool only: images of the demo's pool, and those of PLANTED."""
    folder = tmp_path_factory.mktemp("planted") / "table"
    table = cid_ray.open_table("demo")
    split = make_split(table, cid_ray.load_model(trained).config.data)
    writer = TableWriter(folder, table.classes, table.colors, IGNORED)
    for row in split.pool[:NUM_POOL].tolist():
        writer.add(copied_row(table, row, with_mask=False))
    rows = (split.val[0], split.test[0], split.labeled[0], split.pool[0], *split.pool[-2:])
    add_planted(writer, {name: int(row) for name, row in zip(PLANTED, rows, strict=True)})
    writer.close(**copied_meta(table))
    return folder


@pytest.fixture(scope="module")
def looked(trained: Path, planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, with what `pool` says of the planted table."""
    run = tmp_path_factory.mktemp("looked") / "run"
    shutil.copytree(trained, run)
    options = ["--table", str(planted), "--max-images", str(IMAGES), "-q"]
    assert pool([str(run), *options]) == 0
    return run


def record_of(run: Path) -> Record:
    found = newest_pool(read_records(run))
    assert found is not None
    return found


def lines_of(run: Path) -> dict[str, dict[str, str]]:
    with (run / "pool" / "images.csv").open() as file:
        return {line["image_id"]: line for line in csv.DictReader(file)}


def test_what_was_planted_is_found(looked: Path, planted: Path) -> None:
    record, lines = record_of(looked), lines_of(looked)
    assert record["images"] == record["pool_count"] == len(lines) == NUM_POOL + len(PLANTED)
    table = cid_ray.open_table("demo")
    split = make_split(table, cid_ray.load_model(looked).config.data)
    copied = {one["of"]: one for one in record["copies"]}
    for name, rows in (("val", split.val), ("test", split.test), ("labeled", split.labeled)):
        assert copied[name]["example"] == f"train/copy of {name}" and copied[name]["count"] == 1
        assert copied[name]["example_of"] == table.ids(rows[:1])[0]
    assert copied["pool"]["example"] == "train/copy of pool" and copied["pool"]["count"] == 1
    assert float(lines["train/dark"]["brightness_z"]) < -3.5
    assert float(lines["train/large"]["size_z"]) > 3.5 and record["outliers"]["size"] == 1
    assert float(lines["train/dark"]["colors_distance"]) > 1
    left_out = (looked / "pool" / "leave_out.txt").read_text().splitlines()
    assert {f"train/{name}" for name in PLANTED} <= set(left_out)
    assert len(left_out) == record["left_out"] and record["table"] == str(planted)
    shown = {one["image_id"]: looked / one["file"] for one in record["pictures"]}
    assert {"train/copy of val", "train/copy of test", "train/dark"} <= shown.keys()
    assert all(Image.open(file).format == "JPEG" for file in shown.values())


def test_record_is_of_the_run_and_a_newer_one_replaces_it(looked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(looked, run)
    final = next(one for one in read_records(run) if one["event"] == "final")
    assert parse_line((run / "records.jsonl").read_bytes().splitlines()[-1])["event"] == "pool"
    assert record_of(run)["run"] == final["run"] and record_of(run)["ratio"] == final["ratio"]
    assert pool([str(run), "--max-images", "12", "-q"]) == 0
    found = [one for one in read_records(run) if one["event"] == "pool"]
    assert len(found) == 1 and found[0]["images"] == 12 and found[0]["table"] == "demo"
    assert found[0]["pool_count"] == final["pool_count"]
    pictures = {one.name for one in (run / "pool" / "images").iterdir()}
    assert pictures == {Path(one["file"]).name for one in found[0]["pictures"]}


def test_report_shows_the_record_without_the_other_files(looked: Path, tmp_path: Path) -> None:
    records = read_records(looked)
    page = write_page(looked, tmp_path / "one", records, Config()).read_text()
    record = record_of(looked)
    assert "What is in the pool" in page
    assert page.count("data:image/jpeg;base64,") == len(record["pictures"])
    text = (tmp_path / "one" / "report.md").read_text()
    assert "What is in the pool" in text and "near-duplicate of a test image" in text
    elsewhere = tmp_path / "published"
    elsewhere.mkdir()
    page = write_page(elsewhere, tmp_path / "two", records, Config()).read_text()
    assert "near-duplicate of a test image" in page and "data:image/jpeg" not in page
    without = [one for one in records if one["event"] != "pool"]
    page = write_page(looked, tmp_path / "three", without, Config()).read_text()
    assert "What is in the pool" not in page


def test_worst_is_said_first_with_what_to_do(looked: Path) -> None:
    lines = describe_pool(record_of(looked), "runs/mine")
    assert lines[0].startswith("Looked at 30 of 30 pool images")
    assert all("scores on" in line and "Leave them out" in line for line in lines[1:3])
    assert lines[-1].startswith("Leave out") and "runs/mine/pool/leave_out.txt" in lines[-1]


def test_training_takes_the_split_without_what_is_left_out(
    trained: Path, planted: Path, tmp_path: Path
) -> None:
    """The demo's own pool, with a copy planted in it."""
    folder = tmp_path / "table"
    table = cid_ray.open_table("demo")
    writer = TableWriter(folder, table.classes, table.colors, IGNORED)
    for name in ("train", "val", "test"):
        for row in table.rows(name)[:16].tolist():
            writer.add(copied_row(table, row, with_mask=True))
    add_planted(writer, {"copy of test": int(table.rows("test")[0])})
    writer.close(**copied_meta(table))
    run = tmp_path / "run"
    config = ["--config", str(trained / "config.yaml"), "--set", "train.steps=2"]
    config += ["--set", f"data.table={folder}", "--set", "data.ratio=6", "-q"]
    assert train([*config, "--out", str(run)]) == 0
    assert pool([str(run), "-q"]) == 0
    record = record_of(run)
    left_out = (run / "pool" / "leave_out.txt").read_text().splitlines()
    assert "train/copy of test" in left_out
    lists = run / record["split_files"]
    before = make_split(cid_ray.open_table(str(folder)), cid_ray.load_model(run).config.data)
    changes: dict[str, Any] = {"data.table": str(folder), "data.split_files": str(lists)}
    split = make_split(
        cid_ray.open_table(str(folder)), build_config({"data": {"ratio": "6"}}, changes).data
    )
    own = cid_ray.open_table(str(folder))
    assert sorted(split.labeled) == sorted(before.labeled)
    assert set(own.ids(before.pool)) - set(own.ids(split.pool)) == set(left_out)
    assert train([*config, "--set", f"data.split_files={lists}", "--out", f"{run}-2"]) == 0
    shutil.rmtree(folder)
    shutil.copytree(planted, folder)
    with pytest.raises(InputError, match="is not the table that the network was trained on"):
        pool([str(run)])


def test_unreadable_images_are_left_out(
    looked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(looked, run)
    table = cid_ray.open_table("demo")
    broken = int(make_split(table, cid_ray.load_model(run).config.data).pool[0])
    make_unreadable(monkeypatch, table, broken)
    assert pool([str(run), "--max-images", "3", "-q"]) == 0
    record = record_of(run)
    assert (record["unreadable"], record["images"]) == (1, 2)
    name = table.ids(np.array([broken]))[0]
    assert name in (run / "pool" / "leave_out.txt").read_text().splitlines()


def test_bad_input_is_refused_in_one_line(looked: Path, planted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    writer = TableWriter(other, ["a", "b"], [[1, 1, 1], [2, 2, 2]], IGNORED)
    table = cid_ray.open_table("demo")
    writer.add(copied_row(table, int(table.rows("train")[0]), with_mask=False))
    writer.close(**copied_meta(table))
    labeled = tmp_path / "labeled"
    writer = TableWriter(labeled, table.classes, table.colors, IGNORED)
    writer.add(copied_row(table, int(table.rows("train")[0]), with_mask=True))
    writer.close(**copied_meta(table))
    refused = {
        ("--max-images", "0"): "--max-images is 0, must be at least 1",
        ("--table", "missing"): "data.table 'missing' is not a table",
        ("--table", str(other)): "has the classes a, b, the network",
        ("--table", str(labeled)): "has no pool for this run",
    }
    before = (looked / "records.jsonl").read_bytes()
    for options, message in refused.items():
        with pytest.raises(InputError, match=message):
            pool([str(looked), *options])
    with pytest.raises(InputError, match="neither a checkpoint"):
        pool([str(tmp_path / "nothing")])
    checkpoint = next(looked.rglob("last.pt"))
    with pytest.raises(InputError, match="is no run folder; give RUN"):
        pool([str(checkpoint)])
    assert (looked / "records.jsonl").read_bytes() == before
    shutil.copytree(looked, tmp_path / "run")
    for file in (tmp_path / "run").rglob("last.pt"):
        file.unlink()
    with pytest.raises(InputError, match=r"last.pt does not exist"):
        pool([str(tmp_path / "run")])
