"""Law: COCO's run lengths decode to the mask that was encoded; anything else is refused.

Reference: pycocotools.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from cid_ray.data.ingest.run_lengths import check_counts, decode_counts, parse_counts
from tests.helpers.fuzzing import fuzz

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@fuzz(4)
@given(size=sizes, seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_text_of_pycocotools_decodes_to_its_mask(
    size: tuple[int, int], seed: int, share: float
) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    encoded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = parse_counts(encoded["counts"])
    check_counts(counts, size)
    np.testing.assert_array_equal(decode_counts(counts, size), mask)
    assert counts[1::2].sum() == mask_api.area(encoded)


def test_long_runs_decode_too() -> None:
    mask = np.zeros((3000, 2000), np.uint8)
    mask[100:, 700:] = 1
    encoded = mask_api.encode(np.asfortranarray(mask))
    counts = parse_counts(encoded["counts"])
    np.testing.assert_array_equal(decode_counts(counts, mask.shape), mask.astype(bool))


@pytest.mark.parametrize("text", [b"P", b"0P", b" ", b"\x00", b"oooooooo0", "ü".encode(), b"p0"])
def test_text_that_pycocotools_would_read_beyond_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="not COCO's compressed run lengths"):
        parse_counts(text)


@fuzz(4)
@given(text=st.binary(max_size=30))
def test_any_text_is_counts_or_refused(text: bytes) -> None:
    try:
        counts = parse_counts(text)
        check_counts(counts, (5, 6))
    except ValueError:
        return
    assert decode_counts(counts, (5, 6)).shape == (5, 6)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([5], "run lengths of 5 pixels, the image has 6 x 5"),
        ([31], "run lengths of 31 pixels"),
        ([40, -10], "negative"),
    ],
)
def test_counts_that_do_not_fill_the_image_are_refused(counts: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_counts(np.array(counts), (5, 6))
