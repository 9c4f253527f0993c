"""Laws of one-line messages: of InputError, and the summary of any other error."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cid_ray.config import InputError, error_summary, read_utf8
from cid_ray.config.errors import MAX_MESSAGE_CHARS
from cid_ray.resources.prices import Prices


@pytest.mark.parametrize(
    ("error", "plain", "with_type"),
    [
        (ValueError("one\ntwo"), "one", "ValueError: one"),
        (KeyError(), "KeyError", "KeyError"),
        (RuntimeError(" \n"), "RuntimeError", "RuntimeError"),
        (RuntimeError("\n first"), "first", "RuntimeError: first"),
        (OSError("no bucket. Detail: <xml>\n</xml>"), "no bucket", "OSError: no bucket"),
        (InputError("x is 3"), "x is 3", "InputError: x is 3"),
    ],
)
def test_error_summary_is_first_line_or_type(error: Exception, plain: str, with_type: str) -> None:
    assert error_summary(error) == plain
    assert error_summary(error, with_type=True) == with_type


def test_input_error_is_one_line_whatever_it_quotes() -> None:
    error = InputError("records.jsonl: `a\nb\x1b[31m\u2028\ud800` is no event; remove the line")
    expected = r"records.jsonl: `a\nb\x1b[31m\u2028\ud800` is no event; remove the line"
    assert str(error) == expected
    assert str(pickle.loads(pickle.dumps(error))) == expected


def test_long_input_error_keeps_path_and_remedy() -> None:
    text = str(InputError(f"config.yaml: `key` is {'x' * 10**6}; leave it out"))
    assert len(text) <= MAX_MESSAGE_CHARS
    assert text.startswith("config.yaml: `key` is x") and text.endswith("x; leave it out")


def test_error_of_a_missing_key_repeats_no_values(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("machines: {a: {cpus: 8}}")
    with pytest.raises(InputError) as caught:
        Prices.read(tmp_path / "prices.yaml")
    assert str(caught.value) == f"{tmp_path / 'prices.yaml'}: `date` is missing"


def test_text_in_utf8_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.txt").write_bytes(start + "Straße\n".encode())
        assert read_utf8(tmp_path / "a.txt") == "Straße\n"


def test_text_of_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("road\nStraße\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.txt, line 2: not text in UTF-8 .*save the file"):
        read_utf8(path)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        read_utf8(tmp_path)
