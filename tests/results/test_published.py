"""Published numbers: shown for the same classes, labels and val images, and for no other data."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config, DataConfig, build_config
from cid_ray.data.image_codec import encode_png
from cid_ray.data.importers import cityscapes, voc
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table
from cid_ray.results.published import NOTE, load_published, published_tables
from cid_ray.results.records import Record, RecordWriter, read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import summarize
from cid_ray.results.text_report import write_report
from cid_ray.storage.run_dir import RunDir
from tests.helpers.image_tables import random_image, table_row, write_table
from tests.helpers.records import small_search
from tests.helpers.tiny_run import real_data

DATA_SETS = {data_set["name"]: data_set for data_set in load_published()}
VOC = DATA_SETS["PASCAL VOC 2012"]
LISTS = {table["lists"]: table for table in VOC["tables"]}
TINY_IMAGE = encode_png(random_image(0, (16, 16)))


def records_on(ratio_8: str, classes: list[str], val_count: int = 1449) -> list[Record]:
    """A search at 1/8, whose labels have this split id, and at 1/16 with labels of nobody else."""
    records = small_search()
    for record in records:
        if record["event"] in ("rung", "final"):
            record["colors"] = {name: [k, k, k] for k, name in enumerate(classes)}
            record["val_count"] = val_count
            record["split_id"] = ratio_8 if record["ratio"] == "1/8" else "f" * 12
    return records


@pytest.fixture
def voc_92() -> list[Record]:
    return records_on(LISTS["high-quality lists"]["splits"]["92"], VOC["classes"])


def tables_of(records: list[Record]) -> list[Any]:
    return published_tables(records, summarize(records))


# ---- the file ----


def test_every_row_has_a_source_and_a_number_for_each_list() -> None:
    split_ids = []
    for data_set in DATA_SETS.values():
        for table in data_set["tables"]:
            split_ids += table["splits"].values()
            for methods in table["backbones"].values():
                for method, (source, *scores) in methods.items():
                    assert isinstance(source, str) and source, method
                    assert len(scores) == len(table["splits"]), method
                    assert all(score is None or 40 < score < 95 for score in scores), method
    assert len(split_ids) == len(set(split_ids)) == 5 + 3 + 3 + 4
    assert all(re.fullmatch(r"[0-9a-f]{12}", split_id) for split_id in split_ids)


def test_classes_are_those_of_the_importers() -> None:
    assert VOC["classes"] == voc.NAMES
    assert DATA_SETS["Cityscapes"]["classes"] == [name for _, name, _ in cityscapes.CLASSES]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lists")
    with tarfile.open(real_data("splits_unimatch.tar.xz")) as archive:
        archive.extractall(out, filter="data")
    return out / "splits_unimatch"


def table_of_lists(folder: Path, split: Path) -> Table:
    """A table with the ids that `prepare voc` and `prepare cityscapes` give the images."""
    rows = []
    for name in ("labeled.txt", "unlabeled.txt"):
        for line in (split / name).read_text().splitlines():
            image_path = line.split()[0]
            image_id = image_path.removeprefix("JPEGImages/").removeprefix("leftImg8bit/train/")
            image_id = image_id.removesuffix(".jpg").removesuffix("_leftImg8bit.png")
            row = table_row(image_id, TINY_IMAGE, TINY_IMAGE, pixels=[256])
            rows.append({**row, "image_path": image_path})
    return write_table(folder, rows, ("a",))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        (
            "PASCAL VOC 2012",
            {"high-quality lists": "", "blended lists": "", "U2PL's lists": "u2pl_"},
        ),
        ("Cityscapes", {"lists of UniMatch": ""}),
    ],
)
def test_split_ids_are_those_of_the_published_lists(
    lists: Path, tmp_path: Path, name: str, prefix: dict[str, str]
) -> None:
    folder = lists / {"PASCAL VOC 2012": "pascal", "Cityscapes": "cityscapes"}[name]
    table = table_of_lists(tmp_path / "table", folder / "1_16")
    assert {known["lists"] for known in DATA_SETS[name]["tables"]} == set(prefix)
    for known in DATA_SETS[name]["tables"]:
        files = f"{folder}/{prefix[known['lists']]}{{ratio}}"
        for ratio, split_id in known["splits"].items():
            split = make_split(table, DataConfig(ratio=ratio, split_files=files))
            assert split.split_id == split_id, ratio


# ---- which runs they stand beside ----


def test_numbers_of_the_same_list_are_found(voc_92: list[Record]) -> None:
    (table,) = tables_of(voc_92)
    assert table.title == "PASCAL VOC 2012, high-quality lists"
    assert table.ratios == ("1/8 (8)",), "the other ratio has labels of its own"
    scores = {(row.backbone, row.method): row.scores for row in table.rows}
    assert scores["ResNet-101", "UniMatch"] == (75.2,)
    assert scores["ResNet-50", "UniMatch"] == (71.9,)
    assert ("ResNet-50", "AugSeg") not in scores, "it has no number at 92 labels"


@pytest.mark.parametrize("change", ["classes", "val images", "labels", "labels of one run"])
def test_nothing_is_shown_for_other_data(voc_92: list[Record], change: str) -> None:
    records = [record for record in voc_92 if record["event"] in ("rung", "final")]
    if change == "labels of one run":
        records = [record for record in records if record["ratio"] == "1/8"][:1]
    for record in records:
        if change == "classes":
            record["colors"] = dict(reversed(record["colors"].items()))
        elif change == "val images":
            record["val_count"] = 1448
        else:
            record["split_id"] = "e" * 12
    assert tables_of(voc_92) == []


def test_rows_of_the_encoder_are_chosen_and_all_for_another(voc_92: list[Record]) -> None:
    (table,) = tables_of(voc_92)
    assert {row.backbone for row in table.of_encoder("resnet101s").rows} == {"ResNet-101"}
    assert {row.backbone for row in table.of_encoder("resnet50.a1_in1k").rows} == {"ResNet-50"}
    assert table.of_encoder("tf_efficientnet_lite0").rows == table.rows


# ---- the reports ----


def test_page_shows_them_as_other_peoples_with_source(voc_92: list[Record], tmp_path: Path) -> None:
    page = write_page(tmp_path, tmp_path / "report", voc_92, Config()).read_text()
    assert "Published numbers of other people" in page and NOTE.replace("'", "&#39;") in page
    section = page.partition("Published numbers of other people")[2].partition("<h2>")[0]
    row = r"CorrMatch</th><td[^>]*>ResNet-101</td><td>76\.40</td><td[^>]*>README</td>"
    assert re.search(row, section)
    without = write_page(tmp_path, tmp_path / "report", small_search(), Config()).read_text()
    assert "Published numbers" not in without


def test_terminal_shows_those_of_the_encoder(voc_92: list[Record], tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for record in voc_92:
        writer.append(record)
    lines: list[str] = []
    config = build_config({}, {"model.encoder": "resnet101s"})
    write_report(RunDir(tmp_path), config, read_records(tmp_path), lines.append)
    (shown,) = [line for line in lines if line.startswith("published numbers")]
    assert shown.startswith(f"published numbers, PASCAL VOC 2012, high-quality lists. {NOTE}\n")
    assert re.search(r"\nUniMatch +ResNet-101 +75\.20 +README *\n", shown)
    assert "ResNet-50" not in shown
