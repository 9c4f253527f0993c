"""Law: JSON is read with limits, and a name in a file leads nowhere but below its root."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cid_ray.config import InputError
from cid_ray.data.ingest.foreign_json import path_below, read_json
from tests.helpers.fuzzing import ODD_TEXT, fuzz

ROOT = Path("set")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "set/json/a.jpg"),
        ("../images/a.jpg", "set/images/a.jpg"),
        ("..\\images\\a.jpg", "set/images/a.jpg"),
        ("./x/../a.jpg", "set/json/a.jpg"),
        ("../../etc/passwd", None),
        ("..\\..\\etc\\passwd", None),
        ("..", None),
        ("/etc/passwd", None),
        ("C:\\photos\\a.jpg", None),
        ("\\\\server\\share\\a.jpg", None),
        ("a\0.jpg", None),
        ("", None),
    ],
)
def test_name_is_a_path_below_the_root_or_nothing(name: str, expected: str | None) -> None:
    found = path_below(ROOT, ROOT / "json", name)
    assert found == (Path(expected) if expected else None)


@fuzz(4)
@given(
    parts=st.lists(st.sampled_from([*ODD_TEXT, "..", ".", "a", "\\", "/", "C:"]), max_size=6),
    separator=st.sampled_from(["/", "\\"]),
)
def test_no_name_leaves_the_root(tmp_path: Path, parts: list[str], separator: str) -> None:
    root = tmp_path / "set"
    found = path_below(root, root / "json", separator.join(parts))
    assert found is None or found.resolve().is_relative_to(root.resolve())


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path, 100) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "is not text in UTF-8"),
        (b" " * 300_000, "larger than 0.2 MB"),
    ],
)
def test_file_that_is_no_json_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_json(path, 200_000)
    with pytest.raises(InputError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json", 200_000)
