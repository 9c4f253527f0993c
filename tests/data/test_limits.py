"""Law: a file of a data set that somebody else wrote is read or refused in one line, in bounded
time and memory: meta.json, split files, classes files, and the pattern of --group.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.ingest import groups
from cid_ray.data.ingest.class_file import read_classes
from cid_ray.data.ingest.classes import parse_mapping
from cid_ray.data.ingest.groups import find_groups
from cid_ray.data.split_files import read_lists
from cid_ray.data.table import Table

HUGE = 10**12  # bytes of a sparse file
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-300, 300),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 300) | st.text(max_size=3) | st.none(), max_size=4),
    st.lists(st.lists(st.integers(-1, 300) | st.text(max_size=3), max_size=4), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.fixture
def table_folder(small_demo: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    shutil.copytree(small_demo, folder)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        Table(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


# ---- meta.json ----


@SETTINGS
@given(key=st.sampled_from(["classes", "colors", "ignore_index", "fingerprint"]), value=ODD)
def test_opened_table_has_plain_names_and_colors_whatever_meta_json_says(
    key: str, value: Any, table_folder: Path
) -> None:
    meta = json.loads((table_folder / "meta.json").read_text())
    changed = table_folder.with_name("changed")
    if not changed.exists():
        shutil.copytree(table_folder, changed)
    (changed / "meta.json").write_text(json.dumps({**meta, key: value}))
    try:
        table = Table(changed)
    except InputError:
        refusal(changed)
        return
    assert len(table.classes) == len(table.colors) == len(set(table.classes)) > 0
    assert all(name.strip() and name.isprintable() for name in table.classes)
    assert all(len(color) == 3 and set(color) <= set(range(256)) for color in table.colors)
    assert table.ignore_index in range(256) and len(table.fingerprint) == 16


@pytest.mark.parametrize("name", ["a\x1b[31m", "line\nbreak", "", "  ", "\u202egnp", "x" * 201])
def test_class_name_with_control_characters_is_refused(name: str, table_folder: Path) -> None:
    meta = json.loads((table_folder / "meta.json").read_text())
    meta["classes"][0] = name
    (table_folder / "meta.json").write_text(json.dumps(meta))
    assert "is no class name" in refusal(table_folder)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"classes": ' + "9" * 5000 + "}", "[]", "null", '"x"', "", "{}"],
    ids=["depth", "digits", "list", "null", "text", "empty", "no field"],
)
def test_meta_json_of_another_shape_is_refused(text: str, table_folder: Path) -> None:
    (table_folder / "meta.json").write_text(text)
    assert f"{str(table_folder)!r} is not a table" in refusal(table_folder)


def test_meta_json_that_is_too_large_is_refused_unread(table_folder: Path) -> None:
    with (table_folder / "meta.json").open("wb") as file:
        file.truncate(HUGE)
    assert "meta.json is larger than 64 MB" in refusal(table_folder)


# ---- split files and classes files ----


@pytest.mark.parametrize("name", ["labeled.txt", "unlabeled.txt"])
def test_split_file_that_is_too_large_is_refused(
    name: str, small_demo: Path, tmp_path: Path
) -> None:
    table = Table(small_demo)
    names = table.index["image_path"].to_pylist()
    (tmp_path / "labeled.txt").write_text(names[-1])
    (tmp_path / "unlabeled.txt").write_text(names[-2])
    assert [len(rows) for rows in read_lists(table, tmp_path)] == [1, 1]
    (tmp_path / name).write_text("a " * 100_000)
    with pytest.raises(InputError, match=rf"{name}, line 1: has 199,999 characters"):
        read_lists(table, tmp_path)
    with (tmp_path / name).open("wb") as file:
        file.truncate(HUGE)
    with pytest.raises(
        InputError,
        match=rf"{name} has 1,000,000,000,000 bytes, such a file may have at most 256,000,000",
    ):
        read_lists(table, tmp_path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a" + " " * 500_000 + "b", "more than 200 characters"),
        ("road\x1b[31m", "control characters"),
        ("road 1 2 999", "has a colour above 255"),
        ("\n".join(f"c{number}" for number in range(300)), "names 300 classes"),
        ("# nothing", "names no class"),
        ("x" * 2_000_000, "may have at most 1,000,000"),
    ],
    ids=["spaces", "escape", "color", "many", "none", "large"],
)
def test_classes_file_beyond_a_limit_is_refused(text: str, rule: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text(text)
    with pytest.raises(InputError, match=rule):
        read_classes(file)


@pytest.mark.parametrize("text", ["9" * 5000 + "=1", "1=" + "9" * 5000, "²=1", "256=1", "-1=2"])
def test_map_option_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must look like OLD=NEW") as caught:
        parse_mapping([text])
    assert len(str(caught.value)) < 1000


# ---- --group ----


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=5))
@settings(max_examples=10, deadline=None)
def test_groups_are_what_the_first_group_matches(names: list[str]) -> None:
    assert find_groups("(.)", names) == [
        next((c for c in name if c != "\n"), None) for name in names
    ]
    assert find_groups("x?", names) == [None] * len(names) == find_groups(None, names)


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|a)*$", r"(a|aa)+$", r"(.*a){25}$", r"^(([a-z])+.)+[A-Z]([a-z])+$"]
)
def test_pattern_that_backtracks_without_end_is_stopped(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "TIME_LIMIT_S", 1.0)
    with pytest.raises(InputError, match="did not match 2 names within 1 s"):
        find_groups(pattern, ["short", "a" * 200 + "!"])


@pytest.mark.parametrize(
    "pattern",
    ["(", "[", "(" * 5000 + ")" * 5000, "a{" + "9" * 30 + "}", "a{" + "9" * 5000 + "}", "(?P<1>a)"],
    ids=["open", "bracket", "depth", "count", "digits", "name"],
)
def test_pattern_that_does_not_compile_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="is not a regular expression") as caught:
        find_groups(pattern, ["a"])
    assert len(str(caught.value)) < 1000
