"""Law: a size has at least two digits, and the largest unit that leaves one before the point."""

from __future__ import annotations

import pytest

from cid_ray.results.formatting import format_bytes


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0.0 kB"),
        (850_000, "850 kB"),
        (999_600, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (9_960_000_000, "10 GB"),
        (41_000_000_000, "41 GB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_format_bytes(number: int, text: str) -> None:
    assert format_bytes(number) == text
