"""Law: split files and class files of any content are read, or refused in one line.

Every line of a file that damage left alone means what it meant before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.classes import ClassList, parse_mapping
from cid_ray.data.split_files import read_lists, write_lists
from cid_ray.data.table import Table
from tests.helpers.fuzzing import (
    ODD_TEXT,
    Edit,
    damage,
    edits,
    fuzz,
    result_or_refusal,
    written,
)
from tests.helpers.image_tables import labeled_row, random_image, random_mask, write_table

CLASSES = b"road 128 64 128\nsky 1 2 3\nsign symbol 192,128,128  # as in CamVid\ncar #0a0b0c\n"
NAMED_COLORS = {
    "road": [128, 64, 128],
    "sky": [1, 2, 3],
    "sign symbol": [192, 128, 128],
    "car": [10, 11, 12],
}
NUM_IMAGES = 9
LABELED = np.arange(4)

words = st.one_of(st.sampled_from(ODD_TEXT), st.text(max_size=8))
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    rows = [
        labeled_row(f"a {i}" if i % 2 else f"{i}", random_image(i), random_mask(i))
        for i in range(NUM_IMAGES)
    ]
    return write_table(tmp_path_factory.mktemp("tables") / "t", rows)


@pytest.fixture(scope="module")
def lists(table: Table) -> Path:
    """A folder with valid lists; tests put other lists in their place."""
    write_lists(table, LABELED, np.arange(len(LABELED), NUM_IMAGES), {}, table.folder / "lists")  # type: ignore[operator]
    return Path(table.folder, "lists")


@pytest.fixture(scope="module")
def labeled_list(lists: Path) -> bytes:
    return (lists / "labeled.txt").read_bytes()


# ---- split files ----


def check_lists(table: Table, lists: Path, content: bytes, known: dict[str, int]) -> None:
    written(lists / "labeled.txt", content)
    found = result_or_refusal(lambda: read_lists(table, lists), lists)
    if found is None:
        return
    labeled, pool = found
    lines = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    assert len(labeled) == len(lines) == len(set(labeled.tolist()))
    assert not set(labeled.tolist()) & set(pool.tolist())
    assert set(labeled.tolist()) <= set(table.rows("train").tolist())
    for line, row in zip(lines, labeled.tolist(), strict=True):
        assert known.get(line, row) == row


@fuzz(0.5)
@given(edits=edits)
def test_damaged_split_file(
    table: Table, lists: Path, labeled_list: bytes, edits: list[Edit]
) -> None:
    known = dict(zip(labeled_list.decode().splitlines(), LABELED.tolist(), strict=True))
    check_lists(table, lists, damage(labeled_list, edits), known)


names = st.one_of(words, st.sampled_from(["img/0.jpg", "img/a 1.jpg", "0", "a 1", "seg/0.png"]))


@fuzz(0.5)
@given(lines=st.lists(st.lists(names, max_size=3), max_size=4), encoding=encodings)
def test_foreign_split_file(
    table: Table, lists: Path, lines: list[list[str]], encoding: str
) -> None:
    text = "\n".join(" ".join(line) for line in lines)
    known = {"img/0.jpg": 0, "img/0.jpg seg/0.png": 0, "img/a 1.jpg": 1}
    check_lists(table, lists, text.encode(encoding, errors="replace"), known)


# ---- class files ----


def check_classes(path: Path) -> ClassList | None:
    classes = result_or_refusal(lambda: read_classes(path), path)
    if classes is not None:
        assert len(classes.names) == len(classes.colors) == len(set(classes.names)) <= 255
        for name, color in zip(classes.names, classes.colors, strict=True):
            assert name.strip() and name.isprintable()
            assert len(color) == 3 and all(0 <= value <= 255 for value in color)
    return classes


@fuzz(0.4)
@given(edits=edits)
def test_damaged_class_file(tmp_path_factory: pytest.TempPathFactory, edits: list[Edit]) -> None:
    content = damage(CLASSES, edits)
    path = written(tmp_path_factory.getbasetemp() / "classes.txt", content)
    classes = check_classes(path)
    if classes is None:
        return
    lines = content.decode(errors="replace").splitlines()
    for line in CLASSES.decode().splitlines():
        if line in lines:
            found = NAMED_COLORS.keys() & {name for name in classes.names if line.startswith(name)}
            for name in found:
                assert classes.colors[classes.names.index(name)] == NAMED_COLORS[name]


@fuzz(0.3)
@given(lines=st.lists(st.lists(words, max_size=5), max_size=300), encoding=encodings)
def test_foreign_class_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], encoding: str
) -> None:
    content = "\n".join(" ".join(line) for line in lines).encode(encoding, errors="replace")
    check_classes(written(tmp_path_factory.getbasetemp() / "classes.txt", content))


@fuzz(0.3)
@given(numbers=st.lists(st.integers(-1, 1000), min_size=3, max_size=3), name=words)
def test_class_with_any_color(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], name: str
) -> None:
    content = f"{name} {numbers[0]} {numbers[1]} {numbers[2]}".encode(errors="replace")
    check_classes(written(tmp_path_factory.getbasetemp() / "classes.txt", content))


@fuzz(0.2)
@given(texts=st.lists(st.one_of(words, st.from_regex(r"\w{0,4}=\w{0,4}")), max_size=3))
def test_mapping_of_classes(texts: list[str]) -> None:
    mapping = result_or_refusal(lambda: parse_mapping(texts), "--map")
    for old, new in (mapping or {}).items():
        assert 0 <= old <= 255 and 0 <= new <= 255
