"""Laws of the one-line summary of an error."""

from __future__ import annotations

import pytest

from cid_ray.config import InputError, error_summary


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
