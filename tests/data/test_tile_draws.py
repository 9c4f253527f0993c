"""Law: labels are counted in tiles. Whole images are kept together where that is asked for, and val
shares no image with what is trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cid_ray.config import DataConfig, InputError
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table
from tests.helpers.image_tables import (
    labeled_row,
    prepare_folder,
    random_image,
    random_mask,
    write_folders,
    write_table,
)
from tests.helpers.large_images import NUM_TILES, OPTIONS, write_set


@pytest.fixture(scope="module")
def drawn_from(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return prepare_folder(write_set(tmp_path_factory.mktemp("draws") / "set"), *OPTIONS)


def images_in(table: Table, rows: np.ndarray) -> set[str]:
    return set(table.image_ids(rows))


def split_of(table: Table, ratio: str, **data: Any) -> Split:
    return make_split(table, DataConfig(ratio=ratio, **data))


@pytest.mark.parametrize("draw", range(5))
def test_ratio_counts_tiles_and_one_group_takes_whole_images(drawn_from: Table, draw: int) -> None:
    split = split_of(drawn_from, "1/4", draw=draw)
    assert len(split.labeled) == NUM_TILES
    assert len(images_in(drawn_from, split.labeled)) > 1
    split = split_of(drawn_from, "1/2", draw=draw, label_from="one_group")
    assert len(split.labeled) == 2 * NUM_TILES
    assert len(images_in(drawn_from, split.labeled)) == 2
    assert not images_in(drawn_from, split.labeled) & images_in(drawn_from, split.pool)


@pytest.mark.parametrize("draw", range(5))
def test_one_group_takes_image_by_image_within_a_group(tmp_path: Path, draw: int) -> None:
    root = write_set(tmp_path / "set", folder="site")
    val = write_folders(tmp_path / "val", [random_mask(9)], seed=9)
    val_options = ("--val-images", val / "images", "--val-masks", val / "masks")
    table = prepare_folder(root, *OPTIONS, "--group", "(.*)/", *val_options)
    assert len(set(table.groups(table.rows("train")))) == 1
    split = split_of(table, str(NUM_TILES), draw=draw, label_from="one_group")
    assert len(images_in(table, split.labeled)) == 1


@pytest.mark.parametrize("draw", range(5))
@pytest.mark.parametrize("label_from", ["any", "each_group", "one_group"])
def test_val_from_budget_shares_no_image_with_labels_or_pool(
    drawn_from: Table, label_from: Any, draw: int
) -> None:
    data = {"val_from_budget": 0.3, "label_from": label_from, "draw": draw}
    split = split_of(drawn_from, "2/3", **data)
    val = images_in(drawn_from, split.val)
    assert val
    assert not val & images_in(drawn_from, split.labeled)
    assert not val & images_in(drawn_from, split.pool)
    assert split.label_budget == 40


def test_val_from_budget_of_one_image_is_refused(drawn_from: Table) -> None:
    with pytest.raises(InputError, match=r"tiles of 1 images, and val takes whole images"):
        split_of(drawn_from, str(NUM_TILES), val_from_budget=0.3, label_from="one_group")


def test_many_groups_are_counted_and_not_all_named(tmp_path: Path) -> None:
    rows = (
        labeled_row(f"{index:02}", random_image(index), random_mask(index), group=f"g{index:02}")
        for index in range(15)
    )
    split = split_of(write_table(tmp_path / "table", rows), "15")
    assert "groups: g00 1, g01 1, " in split.describe()[0]
    assert ", g11 1, and 3 more; id" in split.describe()[0]
    assert len(split.manifest["groups"]) == 15
