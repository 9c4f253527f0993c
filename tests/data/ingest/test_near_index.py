"""Law: every hash within 12 bits of an earlier one is found. Reference: all pairs compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cid_ray.data.ingest import near_index
from cid_ray.data.ingest.near_index import NearIndex, as_hashes, distance, find_neighbours
from cid_ray.data.ingest.perceptual_hash import HASH_BYTES, MAX_DISTANCE, NO_HASH


def flipped(one: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A hash that differs in `count` bits."""
    bits = np.unpackbits(one)
    bits[rng.choice(bits.size, count, replace=False)] ^= 1
    return np.packbits(bits)


def random_hashes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, HASH_BYTES), dtype=np.uint8)


def nearest_by_all_pairs(hashes: np.ndarray) -> dict[int, int]:
    """Row -> distance to the nearest earlier hash, if that looks the same."""
    found = {}
    for row in range(1, len(hashes)):
        nearest = int(distance(hashes[:row], hashes[row]).min())
        if nearest <= MAX_DISTANCE:
            found[row] = nearest
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    copies=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 16)), max_size=40),
)
def test_neighbours_are_those_of_all_pairs(seed: int, copies: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    hashes = random_hashes(rng, 40)
    for of, bits in copies:
        hashes = np.concatenate([hashes, flipped(hashes[of], bits, rng)[None]])
    found = find_neighbours(hashes)
    distances = dict(zip(found.rows.tolist(), found.distances.tolist(), strict=True))
    assert distances == nearest_by_all_pairs(hashes)
    assert (found.earlier < found.rows).all()
    np.testing.assert_array_equal(
        distance(hashes[found.rows], hashes[found.earlier]), found.distances
    )
    index = NearIndex(hashes[:40])
    for row in range(40, len(hashes)):
        nearest = int(distance(hashes[:40], hashes[row]).min())
        asked = index.nearest(hashes[row].tobytes())
        if nearest > MAX_DISTANCE:
            assert asked is None
        else:
            assert asked is not None and asked[1] == nearest
            assert distance(hashes[asked[0]], hashes[row]) == nearest


def test_equal_hashes_are_as_many_pairs_as_hashes() -> None:
    hashes = np.repeat(random_hashes(np.random.default_rng(0), 2), 5000, axis=0)
    found = find_neighbours(hashes)
    assert len(found.rows) == 9998
    assert set(found.earlier.tolist()) == {0, 5000} and not found.distances.any()
    assert NearIndex(hashes).nearest(hashes[7000].tobytes()) == (5000, 0)


def test_many_similar_hashes_take_linear_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 hashes near each other have 12 million pairs."""
    compared = 0

    def counting(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(first)
        return distance(first, second)

    monkeypatch.setattr(near_index, "distance", counting)
    rng = np.random.default_rng(0)
    one = random_hashes(rng, 1)[0]
    hashes = np.stack([flipped(one, 3, rng) for _ in range(5_000)])
    found = find_neighbours(hashes)
    assert len(found.rows) == len(hashes) - 1
    assert compared <= near_index.BANDS * near_index.MAX_COMPARED * len(hashes)


def test_images_without_structure_are_compared_with_none() -> None:
    hashes = as_hashes(NO_HASH * 3)
    assert not len(find_neighbours(hashes).rows)
    assert NearIndex(hashes).nearest(NO_HASH) is None


@pytest.mark.parametrize("count", [0, 1])
def test_few_hashes_have_no_neighbours(count: int) -> None:
    hashes = random_hashes(np.random.default_rng(0), count)
    assert not len(find_neighbours(hashes).rows)
    other = random_hashes(np.random.default_rng(1), 1)
    assert NearIndex(hashes).nearest(other.tobytes()) is None
