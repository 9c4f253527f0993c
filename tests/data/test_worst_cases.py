"""Law: the ten images that are shown first are the worst by the rule that is written on each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cid_ray.data.edge_fit import EdgeFit
from cid_ray.data.table import Table
from cid_ray.data.worst_cases import worst_cases
from tests.helpers.image_tables import labeled_row, random_image, write_table

SIZE = (20, 20)


def mask_of(counts: dict[int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask with so many pixels of each id, the others of class 0."""
    mask = np.zeros(size, np.uint8)
    mask.flat[: sum(counts.values())] = np.repeat(list(counts), list(counts.values()))
    return mask


@pytest.fixture
def table(tmp_path: Path) -> Table:
    masks = {
        "plain": mask_of({1: 180}),
        "void": mask_of({255: 240, 1: 80}),
        "some void": mask_of({255: 4, 1: 180}),
        "one class": mask_of({1: 20}),
        "rare": mask_of({2: 8, 1: 190}),
        "large": mask_of({1: 810}, (30, 60)),
        "large too": mask_of({1: 400}, (20, 40)),
    }
    rows = [labeled_row(n, random_image(0, m.shape), m) for n, m in masks.items()]
    return write_table(tmp_path, rows)


def reasons(table: Table, fits: dict[int, EdgeFit], count: int = 10) -> dict[str, str]:
    cases = worst_cases(table, np.arange(len(table)), fits, count)
    return dict(zip(table.ids(np.array(list(cases))), cases.values(), strict=True))


def test_each_rule_names_its_worst_case_with_its_value(table: Table) -> None:
    found = reasons(table, {})
    assert list(found.items())[:4] == [
        ("train/void", "60 % void (median 0 %)"),
        ("train/one class", "95 % of the labeled pixels are a"),
        ("train/rare", "the rarest class, c: 2 %"),
        ("train/large", "odd size 60 × 30 (median 20 × 20)"),
    ]
    assert found["train/some void"] == "1 % void (median 0 %)"
    assert len(found) == len(table)


def test_edges_come_first_and_most_often(table: Table) -> None:
    fits = {row: EdgeFit(2.0 - row / 10) for row in range(len(table))}
    fits[2] = EdgeFit(0.5, "upside down")
    found = reasons(table, fits)
    assert list(found)[:2] == ["train/some void", "train/large too"]
    assert found["train/some void"] == (
        "mask edges fit the image by 0.50 (median 1.60); fits better mirrored upside down"
    )
    assert sum(reason.startswith("mask edges") for reason in found.values()) >= 4


@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_no_image_is_shown_twice_and_none_is_missing(table: Table, count: int) -> None:
    assert len(reasons(table, {0: EdgeFit(1.0)}, count)) == min(count, len(table))


def test_a_mask_of_void_alone_is_the_worst(tmp_path: Path) -> None:
    masks = {"a": mask_of({255: 400}), "b": mask_of({1: 1})}
    rows = [labeled_row(n, random_image(0, SIZE), m) for n, m in masks.items()]
    found = reasons(write_table(tmp_path, rows), {})
    assert next(iter(found.items())) == ("train/a", "100 % void (median 50 %)")
