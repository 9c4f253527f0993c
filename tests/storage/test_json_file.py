"""Law: JSON of any content is a value or a ValueError, and no file is read beyond its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.storage.json_file import parse_json, read_limited

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(VALUES)
def test_parse_json_agrees_with_what_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@given(st.binary() | st.text() | st.text("[]{}:,\"'0123456789.eE+-ntf\\u"))
def test_parse_json_of_any_text_is_a_value_or_a_value_error(text: str | bytes) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert value is None or isinstance(value, (bool, int, float, str, list, dict))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[" * 50_000 + "]" * 50_000, "9" * 5000, "-" + "9" * 9999],
    ids=["lists", "mappings", "closed", "digits", "negative"],
)
def test_parse_json_that_is_a_bomb_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|Exceeds the limit|Expecting"):
        parse_json(text)


def test_read_limited_larger_than_its_limit_names_file_and_limit(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as out:
        out.truncate(10**12)  # a sparse file: reading all of it would not fit
    with pytest.raises(InputError, match=r"large\.json is larger than 2 MB"):
        read_limited(file, 2_000_000)
    file.write_bytes(b"12345")
    assert read_limited(file, 5) == "12345"
    with pytest.raises(InputError):
        read_limited(file, 4)


def test_read_limited_in_another_encoding_names_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("straße".encode("latin-1"))
    with pytest.raises(InputError, match=r"not text in UTF-8 \(byte 4\)"):
        read_limited(file, 100)
