"""Law: with `data.val_from_budget` the label budget is all the labels there are: a part of it selects, the rest trains.

What selects is neither trained on nor in the pool, and is reported as held out only where nothing else exists.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.config import Data, InputError, override
from cid_ray.core import evaluate
from cid_ray.data.demo import write_demo
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table, png
from cid_ray.results.record import Row
from cid_ray.run import state
from cid_ray.run.build import check
from cid_ray.run.loop import train
from cid_ray.run.run import Job, Run
from tests.data.made import picture, row, write_table
from tests.support import TINY

IMAGE = png(picture(0, (16, 16)))
GROUPS = {"a": 20, "b": 21, "c": 22, "d": 23, "e": 24}
MASKED, UNLABELED = sum(GROUPS.values()), 15
RATIOS = ("1/16", "1/8", "1/4", "1/2", "1/1")


def rows_of(splits: dict[str, int]) -> list[dict[str, Any]]:
    """110 train images with masks in five groups, a pool, and held-out images of the named splits."""
    group = np.repeat(list(GROUPS), list(GROUPS.values()))
    rows = [row(f"t{i:03d}", IMAGE, b"mask", pixels=[5, 5, 5], group=str(group[i])) for i in range(MASKED)]
    rows += [row(f"u{i}", IMAGE) for i in range(UNLABELED)]
    return rows + [
        row(f"{name}{i}", IMAGE, b"mask", pixels=[5, 5, 5], split=name)
        for name, count in splits.items()
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write_table(tmp_path_factory.mktemp("budget") / "t", rows_of({"val": 4, "test": 3}))


def split_of(table: Table, ratio: str = "1/4", share: float = 0.2, **data: Any) -> Split:
    return make_split(table, Data(ratio=ratio, val_from_budget=share, **data))


draws = st.fixed_dictionaries(
    {
        "draw": st.integers(0, 50),
        "split_seed": st.integers(0, 2**31),
        "label_from": st.sampled_from(["any", "each_group", "one_group"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(draw=draws, count=st.integers(4, MASKED), share=st.floats(0.01, 0.5))
def test_the_budget_is_divided_and_nothing_is_in_two_places(
    table: Table, draw: dict[str, Any], count: int, share: float
) -> None:
    whole, split = split_of(table, str(count), 0, **draw), split_of(table, str(count), share, **draw)
    labeled, val, pool = (set(rows.tolist()) for rows in (split.labeled, split.val, split.pool))
    assert labeled | val == set(whole.labeled.tolist()) and pool == set(whole.pool.tolist())
    assert not labeled & val and not pool & (labeled | val)
    assert len(split.val) == len(val) == max(1, int(share * count + 0.5))
    assert split.budget == count == whole.budget


@settings(max_examples=25, deadline=None)
@given(draw=draws)
def test_a_division_is_a_function_of_its_seeds(table: Table, draw: dict[str, Any]) -> None:
    one, two = (split_of(table, **draw) for _ in range(2))
    assert one.val.tolist() == two.val.tolist() and one.labeled.tolist() == two.labeled.tolist()
    for name in ("draw", "split_seed"):
        other = split_of(table, **{**draw, name: draw[name] + 1})
        assert other.val.tolist() != one.val.tolist() and other.split_id != one.split_id


@settings(max_examples=25, deadline=None)
@given(
    draw=st.integers(0, 50),
    label_from=st.sampled_from(["any", "one_group"]),
    share=st.floats(0.1, 0.5),
)
def test_val_and_labels_of_a_smaller_ratio_lie_within_those_of_a_larger_one(
    table: Table, draw: int, label_from: Any, share: float
) -> None:
    nested = [split_of(table, ratio, share, draw=draw, label_from=label_from) for ratio in RATIOS]
    for small, large in itertools.pairwise(nested):
        assert set(small.val.tolist()) <= set(large.val.tolist())
        assert set(small.labeled.tolist()) < set(large.labeled.tolist())


@settings(max_examples=25, deadline=None)
@given(draw=st.integers(0, 50), count=st.integers(10, MASKED), share=st.sampled_from([0.2, 0.25, 0.33, 0.5]))
def test_every_group_gives_its_part_to_val(table: Table, draw: int, count: int, share: float) -> None:
    """Even where the groups' turns in the draw have the period of the share: five groups, every fifth image."""
    split = split_of(table, str(count), share, draw=draw, label_from="each_group")
    groups, given = (Counter(table.groups(rows).tolist()) for rows in (split.val, split.labeled))
    for name in GROUPS:
        assert abs(groups[name] - share * (groups[name] + given[name])) <= 1


def test_val_of_one_group_is_of_the_labels_group(table: Table) -> None:
    split = split_of(table, "20", label_from="one_group")
    assert len(set(table.groups(np.concatenate([split.labeled, split.val])))) == 1


@pytest.mark.parametrize(("ratio", "name"), [("1/4", "1/4 (28: 22 + 6 val)"), ("23", "23 labels: 18 + 5 val")])
def test_name_and_manifest_show_the_division(table: Table, ratio: str, name: str) -> None:
    split, whole = split_of(table, ratio), split_of(table, ratio, 0)
    manifest = split.manifest
    assert split.name == name
    assert manifest["val_ids"] == sorted(table.ids(split.val)) and manifest["ids"] == sorted(table.ids(split.labeled))
    assert (manifest["val"], manifest["labeled"], manifest["val_from_budget"]) == (
        len(split.val),
        len(split.labeled),
        0.2,
    )
    assert split.split_id != whole.split_id and not any(key.startswith("val") for key in whole.manifest)


def test_the_same_labels_with_another_val_are_another_split(table: Table, tmp_path: Path) -> None:
    def with_val(name: str) -> Split:
        """The first draw that takes this one of four images for val."""
        lines = "\n".join(["t000", "t001", "t002", name])
        draws = (divided_lists(table, tmp_path, lines, 0.25, draw=draw) for draw in range(50))
        return next(split for split in draws if table.ids(split.val) == [f"train/{name}"])

    one, other = with_val("t003"), with_val("t004")
    assert set(one.labeled.tolist()) == set(other.labeled.tolist()) and one.split_id != other.split_id


def divided_lists(table: Table, folder: Path, labeled: str, share: float, **data: Any) -> Split:
    folder.mkdir(exist_ok=True)
    (folder / "labeled.txt").write_text(labeled)
    (folder / "unlabeled.txt").write_text("u0\nu1\n")
    return make_split(table, Data(split_files=str(folder), val_from_budget=share, **data))


def test_split_files_are_divided_too_by_seed_and_draw(table: Table, tmp_path: Path) -> None:
    named = [f"t{i:03d}" for i in range(40, 60)]
    splits = [divided_lists(table, tmp_path, "\n".join(named), 0.2, draw=draw) for draw in (0, 0, 1, 2)]
    for split in splits:
        assert len(split.val) == 4 and len(split.labeled) == 16 and len(split.pool) == 2 and split.budget == 20
        together = {*table.ids(split.labeled), *table.ids(split.val)}
        assert together == {f"train/{name}" for name in named}
    vals = [split.val.tolist() for split in splits]
    assert vals[0] == vals[1] and vals[0] != vals[2] != vals[3]
    assert not np.array_equal(np.diff(vals[0]), [5, 5, 5]), "a list may be sorted: its order is no draw"


@pytest.mark.parametrize(("ratio", "share", "left"), [("2", 0.2, 1), ("3", 0.5, 1), ("4", 0.9, 0), ("20", 0.95, 1)])
def test_too_few_labels_left_is_an_error_with_value_and_remedy(
    table: Table, ratio: str, share: float, left: int
) -> None:
    with pytest.raises(InputError, match=rf"val_from_budget={share:g} leaves {left} of {ratio} .*: lower it, or raise"):
        split_of(table, ratio, share)


@pytest.mark.parametrize("share", [-0.1, 1.0, 20])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"data\.val_from_budget"):
        override({}, {"data.val_from_budget": share})


@pytest.mark.parametrize(
    ("splits", "share", "held_out", "reported", "selects"),
    [
        ({"val": 4, "test": 3}, 0, "test", "test", False),
        ({"val": 4, "test": 3}, 0.2, "test", "test", False),
        ({"val": 4}, 0, "val", "val", True),
        ({"val": 4}, 0.2, "val", "val", False),
        ({"test": 3}, 0.2, "test", "test", False),
        ({}, 0.2, "val", None, True),
    ],
)
def test_what_selects_is_reported_only_where_nothing_else_is_left(
    tmp_path: Path, splits: dict[str, int], share: float, held_out: str, reported: str | None, selects: bool
) -> None:
    table = write_table(tmp_path / "t", rows_of(splits))
    split = split_of(table, share=share)
    assert split.held_out == held_out and split.test_selects == selects
    assert split.test.tolist() == (table.rows(reported) if reported else split.val).tolist()
    if not share:
        assert split.val.tolist() == table.rows("val").tolist()


def test_images_without_masks_neither_select_nor_are_reported(tmp_path: Path) -> None:
    bare = [row(f"{name}-bare", IMAGE, split=name) for name in ("val", "test")]
    table = write_table(tmp_path / "t", [*bare, *rows_of({"val": 2})])
    split = split_of(table, share=0)
    assert split.held_out == "val" and split.test_selects and len(split.val) == 2 and table.labeled[split.val].all()


def test_a_table_without_val_is_refused_with_both_remedies(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", rows_of({"test": 3}))
    config = override({}, {"data.ratio": "1/4"})
    with pytest.raises(InputError, match=r"--val-images.*data\.val_from_budget=0\.2"):
        check(config, table, make_split(table, config.data))
    config = override({}, {"data.ratio": "1/4", "data.val_from_budget": 0.2})
    check(config, table, make_split(table, config.data))


def teachers_iou(run: Run, rows: np.ndarray) -> dict[str, float | None]:
    """The teacher's IoU per class on some rows, image by image, without the run's own evaluation."""
    matrix = np.zeros((run.table.num_classes,) * 2, np.int64)
    net = run.teacher.module.eval()
    for index in rows.tolist():
        image, mask = run.table.read(index, mask=True)
        assert mask is not None
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            guess = evaluate.predict(net, pixels, (mask.shape[0], mask.shape[1]), None)[0].numpy()
        seen = mask != 255
        np.add.at(matrix, (mask[seen], guess[seen]), 1)
    hits, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return {name: 100 * hits[k] / union[k] if matrix[k].sum() else None for k, name in enumerate(run.table.classes)}


def trained(folder: Path, splits: dict[str, int]) -> tuple[Run, Row]:
    """A finished run on a fifth of 12 labels of a demo set with these splits, and its final row."""
    write_demo(folder / "table", {**splits, "train": 48})
    changes = {"data.table": str(folder / "table"), "data.ratio": "12", "data.val_from_budget": 0.25}
    job = Job(override(TINY, changes), folder, threads=1)
    final = list(train(job))[-1]
    run = Run(job)
    content = state.load(job.last)
    assert content["extra"]["step"] == run.step == 12
    return run, final


def close(one: dict[str, float | None], other: dict[str, float | None]) -> bool:
    return one.keys() == other.keys() and all(
        one[name] == other[name] if one[name] is None else one[name] == pytest.approx(other[name]) for name in one
    )


@pytest.mark.parametrize("splits", [{}, {"val": 5}, {"test": 6, "val": 4}])
def test_val_scores_come_from_the_budget_and_held_out_ones_do_not(tmp_path: Path, splits: dict[str, int]) -> None:
    run, final = trained(tmp_path, splits)
    assert final["ratio_name"] == "12 labels: 9 + 3 val"
    assert (final["label_count"], final["val_count"], final["pool_count"]) == (12, 3, 36)
    assert close(final["val/iou_teacher"], teachers_iou(run, run.split.val))
    held_out = "test" if "test" in splits else "val"
    reported = run.table.rows(held_out) if splits else run.split.val
    assert final["held_out"] == held_out and final["held_out_selects"] is (not splits)
    assert close(final["test/iou_teacher"], teachers_iou(run, reported))
    assert close(final["val/iou_teacher"], final["test/iou_teacher"]) is (not splits)
    shown = {sample["image_id"] for sample in final["samples"]}
    assert shown and shown <= set(run.table.ids(reported))
