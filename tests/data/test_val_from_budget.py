"""Law: with `data.val_from_budget` the label budget is all labels: a part selects, the rest trains.

Val is neither trained on nor in the pool. It is reported as test only if nothing else is held out.
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

from cid_ray.config import DataConfig, InputError, build_config
from cid_ray.core import iou
from cid_ray.data.image_codec import encode_png
from cid_ray.data.splits import Split, make_split
from cid_ray.data.synthetic import write_demo
from cid_ray.data.table import Table
from cid_ray.results.records import Record
from cid_ray.training import checkpoint
from cid_ray.training.loop import train
from cid_ray.training.preflight import check_split
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.image_tables import random_image, table_row, write_table
from tests.helpers.tiny_run import TINY

IMAGE = encode_png(random_image(0, (16, 16)))
GROUPS = {"a": 20, "b": 21, "c": 22, "d": 23, "e": 24}
MASKED, UNLABELED = sum(GROUPS.values()), 15
RATIOS = ("1/16", "1/8", "1/4", "1/2", "1/1")


def rows_of(splits: dict[str, int]) -> list[dict[str, Any]]:
    """110 labeled images in five groups, a pool, and held-out images: split -> count."""
    groups = np.repeat(list(GROUPS), list(GROUPS.values())).tolist()
    rows = [
        table_row(f"t{i:03d}", IMAGE, b"mask", pixels=[5, 5, 5], group=group)
        for i, group in enumerate(groups)
    ]
    rows += [table_row(f"u{i}", IMAGE) for i in range(UNLABELED)]
    for name, count in splits.items():
        for i in range(count):
            rows.append(table_row(f"{name}{i}", IMAGE, b"mask", pixels=[5, 5, 5], split=name))
    return rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return write_table(tmp_path_factory.mktemp("budget") / "t", rows_of({"val": 4, "test": 3}))


def split_of(table: Table, ratio: str = "1/4", fraction: float = 0.2, **data: Any) -> Split:
    return make_split(table, DataConfig(ratio=ratio, val_from_budget=fraction, **data))


draws = st.fixed_dictionaries(
    {
        "draw": st.integers(0, 50),
        "split_seed": st.integers(0, 2**31),
        "label_from": st.sampled_from(["any", "each_group", "one_group"]),
    }
)


@settings(max_examples=40, deadline=None)
@given(draw=draws, count=st.integers(4, MASKED), fraction=st.floats(0.01, 0.5))
def test_val_from_budget_partitions_the_budget(
    table: Table, draw: dict[str, Any], count: int, fraction: float
) -> None:
    whole = split_of(table, str(count), 0, **draw)
    split = split_of(table, str(count), fraction, **draw)
    labeled = set(split.labeled.tolist())
    val = set(split.val.tolist())
    pool = set(split.pool.tolist())
    assert labeled | val == set(whole.labeled.tolist())
    assert pool == set(whole.pool.tolist())
    assert not labeled & val
    assert not pool & (labeled | val)
    assert len(split.val) == len(val) == max(1, int(fraction * count + 0.5))
    assert split.label_budget == count == whole.label_budget


@settings(max_examples=25, deadline=None)
@given(draw=draws)
def test_val_of_same_seeds_is_the_same(table: Table, draw: dict[str, Any]) -> None:
    one = split_of(table, **draw)
    two = split_of(table, **draw)
    assert one.val.tolist() == two.val.tolist()
    assert one.labeled.tolist() == two.labeled.tolist()
    for name in ("draw", "split_seed"):
        other = split_of(table, **{**draw, name: draw[name] + 1})
        assert other.val.tolist() != one.val.tolist()
        assert other.split_id != one.split_id


@settings(max_examples=25, deadline=None)
@given(
    draw=st.integers(0, 50),
    label_from=st.sampled_from(["any", "one_group"]),
    fraction=st.floats(0.1, 0.5),
)
def test_val_and_labels_of_smaller_ratio_are_subsets_of_larger(
    table: Table, draw: int, label_from: Any, fraction: float
) -> None:
    nested = [
        split_of(table, ratio, fraction, draw=draw, label_from=label_from) for ratio in RATIOS
    ]
    for small, large in itertools.pairwise(nested):
        assert set(small.val.tolist()) <= set(large.val.tolist())
        assert set(small.labeled.tolist()) < set(large.labeled.tolist())


@settings(max_examples=25, deadline=None)
@given(
    draw=st.integers(0, 50),
    count=st.integers(10, MASKED),
    fraction=st.sampled_from([0.2, 0.25, 0.33, 0.5]),
)
def test_each_group_draw_puts_each_group_in_val(
    table: Table, draw: int, count: int, fraction: float
) -> None:
    """Even if the draw has the same period as val: five groups, and every fifth image is val."""
    split = split_of(table, str(count), fraction, draw=draw, label_from="each_group")
    in_val = Counter(table.groups(split.val).tolist())
    in_labeled = Counter(table.groups(split.labeled).tolist())
    for name in GROUPS:
        assert abs(in_val[name] - fraction * (in_val[name] + in_labeled[name])) <= 1


def test_one_group_draw_takes_val_from_the_same_group(table: Table) -> None:
    split = split_of(table, "20", label_from="one_group")
    assert len(set(table.groups(np.concatenate([split.labeled, split.val])))) == 1


@pytest.mark.parametrize(
    ("ratio", "name"), [("1/4", "1/4 (28: 22 + 6 val)"), ("23", "23 labels: 18 + 5 val")]
)
def test_ratio_name_and_manifest_show_val(table: Table, ratio: str, name: str) -> None:
    split = split_of(table, ratio)
    whole = split_of(table, ratio, 0)
    manifest = split.manifest
    assert split.ratio_name == name
    assert manifest["val_ids"] == sorted(table.ids(split.val))
    assert manifest["ids"] == sorted(table.ids(split.labeled))
    assert manifest["val"] == len(split.val)
    assert manifest["labeled"] == len(split.labeled)
    assert manifest["val_from_budget"] == 0.2
    assert split.split_id != whole.split_id
    assert not any(key.startswith("val") for key in whole.manifest)


def test_same_labels_with_other_val_have_other_split_id(table: Table, tmp_path: Path) -> None:
    def with_val(name: str) -> Split:
        """The first draw of which val is this one of four images."""
        lines = "\n".join(["t000", "t001", "t002", name])
        draws = (divided_lists(table, tmp_path, lines, 0.25, draw=draw) for draw in range(50))
        return next(split for split in draws if table.ids(split.val) == [f"train/{name}"])

    one = with_val("t003")
    other = with_val("t004")
    assert set(one.labeled.tolist()) == set(other.labeled.tolist())
    assert one.split_id != other.split_id


def divided_lists(table: Table, folder: Path, labeled: str, fraction: float, **data: Any) -> Split:
    """The split of two lists, of whose labeled images a fraction is val."""
    folder.mkdir(exist_ok=True)
    (folder / "labeled.txt").write_text(labeled)
    (folder / "unlabeled.txt").write_text("u0\nu1\n")
    return make_split(table, DataConfig(split_files=str(folder), val_from_budget=fraction, **data))


def test_split_files_are_divided_by_seed_and_draw(table: Table, tmp_path: Path) -> None:
    names = [f"t{i:03d}" for i in range(40, 60)]
    labeled = "\n".join(names)
    splits = [divided_lists(table, tmp_path, labeled, 0.2, draw=draw) for draw in (0, 0, 1, 2)]
    for split in splits:
        assert len(split.val) == 4
        assert len(split.labeled) == 16
        assert len(split.pool) == 2
        assert split.label_budget == 20
        together = {*table.ids(split.labeled), *table.ids(split.val)}
        assert together == {f"train/{name}" for name in names}
    vals = [split.val.tolist() for split in splits]
    assert vals[0] == vals[1]
    assert vals[0] != vals[2] != vals[3]
    evenly_spaced = np.array_equal(np.diff(vals[0]), [5, 5, 5])
    assert not evenly_spaced, "a list may be sorted, so its order is not a draw"


@pytest.mark.parametrize(
    ("ratio", "fraction", "left"), [("2", 0.2, 1), ("3", 0.5, 1), ("4", 0.9, 0), ("20", 0.95, 1)]
)
def test_too_few_labels_left_raises_with_value_and_remedy(
    table: Table, ratio: str, fraction: float, left: int
) -> None:
    message = rf"val_from_budget={fraction:g} leaves {left} of {ratio} .*: lower it, or raise"
    with pytest.raises(InputError, match=message):
        split_of(table, ratio, fraction)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 20])
def test_val_from_budget_outside_0_to_1_raises(fraction: float) -> None:
    with pytest.raises(InputError, match=r"data\.val_from_budget"):
        build_config({}, {"data.val_from_budget": fraction})


@pytest.mark.parametrize(
    ("splits", "fraction", "test_split", "reported", "test_is_val"),
    [
        ({"val": 4, "test": 3}, 0, "test", "test", False),
        ({"val": 4, "test": 3}, 0.2, "test", "test", False),
        ({"val": 4}, 0, "val", "val", True),
        ({"val": 4}, 0.2, "val", "val", False),
        ({"test": 3}, 0.2, "test", "test", False),
        ({}, 0.2, "val", None, True),
    ],
)
def test_test_split_is_val_only_without_other_held_out_images(
    tmp_path: Path,
    splits: dict[str, int],
    fraction: float,
    test_split: str,
    reported: str | None,
    test_is_val: bool,
) -> None:
    table = write_table(tmp_path / "t", rows_of(splits))
    split = split_of(table, fraction=fraction)
    assert split.test_split == test_split
    assert split.test_is_val == test_is_val
    assert split.test.tolist() == (table.rows(reported) if reported else split.val).tolist()
    if not fraction:
        assert split.val.tolist() == table.rows("val").tolist()


def test_held_out_images_without_masks_are_not_used(tmp_path: Path) -> None:
    without_mask = [table_row(f"{name}-bare", IMAGE, split=name) for name in ("val", "test")]
    table = write_table(tmp_path / "t", [*without_mask, *rows_of({"val": 2})])
    split = split_of(table, fraction=0)
    assert split.test_split == "val"
    assert split.test_is_val
    assert len(split.val) == 2
    assert table.labeled[split.val].all()


def test_table_without_val_raises_with_both_remedies(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t", rows_of({"test": 3}))
    config = build_config({}, {"data.ratio": "1/4"})
    with pytest.raises(InputError, match=r"--val-images.*data\.val_from_budget=0\.2"):
        check_split(config, table, make_split(table, config.data))
    config = build_config({}, {"data.ratio": "1/4", "data.val_from_budget": 0.2})
    check_split(config, table, make_split(table, config.data))


def teacher_iou(trainer: Trainer, rows: np.ndarray) -> dict[str, float | None]:
    """The teacher's IoU per class, image by image, without the trainer's evaluation."""
    matrix = np.zeros((trainer.table.num_classes,) * 2, np.int64)
    net = trainer.teacher.module.eval()
    for row in rows.tolist():
        image, mask = trainer.table.read(row, mask=True)
        assert mask is not None
        height, width = mask.shape
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            pred = iou.predict(net, pixels, (height, width), None)[0].numpy()
        is_counted = mask != 255
        np.add.at(matrix, (mask[is_counted], pred[is_counted]), 1)
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    return {
        name: 100 * hits[k] / union[k] if matrix[k].sum() else None
        for k, name in enumerate(trainer.table.classes)
    }


def train_with_budget(folder: Path, splits: dict[str, int]) -> tuple[Trainer, Record]:
    """A finished run with 12 labels, a quarter of them val, and its final record."""
    write_demo(folder / "table", {**splits, "train": 48})
    changes = {
        "data.table": str(folder / "table"),
        "data.ratio": "12",
        "data.val_from_budget": 0.25,
    }
    spec = RunSpec(build_config(TINY, changes), folder, num_threads=1)
    final = list(train(spec))[-1]
    trainer = Trainer(spec)
    content = checkpoint.load_checkpoint(spec.last_checkpoint)
    assert content["extra"]["step"] == trainer.step == 12
    return trainer, final


def is_close(one: dict[str, float | None], other: dict[str, float | None]) -> bool:
    if one.keys() != other.keys():
        return False
    return all(
        one[name] == other[name] if one[name] is None else one[name] == pytest.approx(other[name])
        for name in one
    )


@pytest.mark.parametrize("splits", [{}, {"val": 5}, {"test": 6, "val": 4}])
def test_final_scores_use_budget_val_and_held_out_test(
    tmp_path: Path, splits: dict[str, int]
) -> None:
    trainer, final = train_with_budget(tmp_path, splits)
    assert final["ratio_name"] == "12 labels: 9 + 3 val"
    assert (final["label_count"], final["val_count"], final["pool_count"]) == (12, 3, 36)
    assert is_close(final["val/iou_teacher"], teacher_iou(trainer, trainer.split.val))
    test_split = "test" if "test" in splits else "val"
    reported = trainer.table.rows(test_split) if splits else trainer.split.val
    assert final["test_split"] == test_split
    assert final["test_is_val"] is (not splits)
    assert is_close(final["test/iou_teacher"], teacher_iou(trainer, reported))
    assert is_close(final["val/iou_teacher"], final["test/iou_teacher"]) is (not splits)
    sample_ids = {sample["image_id"] for sample in final["samples"]}
    assert sample_ids
    assert sample_ids <= set(trainer.table.ids(reported))
