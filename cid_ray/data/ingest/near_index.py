"""Finds hashes that differ in few bits among a million, in bounded memory.

Multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012): 256 bits are cut into 13 bands. Two
hashes that differ in at most 12 bits agree in at least one band, so only hashes that share a band
are compared. A band takes every 13th bit: neighbouring bits are frequencies that depend on each
other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cid_ray.data.ingest.perceptual_hash import HASH_BYTES, MAX_DISTANCE, NO_HASH

BANDS = MAX_DISTANCE + 1
BITS_PER_BAND = 20  # at most: 256 / 13
PLACES = (1 << np.arange(BITS_PER_BAND)).astype(np.float32)  # exact: below 2**24
CHUNK = 16_384  # hashes that are unpacked or compared together
# A million pictures may be nearly the same (empty conveyor belts). A hash is then compared with the
# next hashes of its band alone, so time and memory stay linear.
MAX_COMPARED = 64
BIT_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


@dataclass(frozen=True)
class Neighbours:
    """Hashes with an earlier one that looks the same, in ascending order.

    Attributes:
        rows: i64[M], their indices.
        earlier: i64[M], the index of the nearest earlier hash.
        distances: u8[M], the bits in which the two differ.
    """

    rows: np.ndarray
    earlier: np.ndarray
    distances: np.ndarray


def as_hashes(content: bytes | bytearray) -> np.ndarray:
    """u8[N, 32] of N concatenated hashes, without a copy."""
    return np.frombuffer(content, np.uint8).reshape(-1, HASH_BYTES)


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The bits in which hashes u8[..., 32] differ: i64[...]."""
    return BIT_COUNTS[first ^ second].sum(-1, dtype=np.int64)


class NearIndex:
    """The hashes of images that are known, to be asked for the nearest one.

    Args:
        hashes: u8[N, 32].

    Example:
        >>> index = NearIndex(as_hashes(looks.hash))
        >>> index.nearest(looks.hash)
        (0, 0)
    """

    def __init__(self, hashes: np.ndarray):
        self._hashes = hashes
        first = _first_of_equal(hashes)
        self._rows = np.flatnonzero((first == np.arange(len(hashes))) & _has_structure(hashes))
        keys = _band_keys(hashes[self._rows])
        keys += np.arange(BANDS, dtype=np.uint32) << BITS_PER_BAND  # bands do not mix
        order = np.argsort(keys.ravel(), kind="stable")
        self._keys = keys.ravel()[order]
        self._positions = (order // BANDS).astype(np.int32)

    def nearest(self, content: bytes) -> tuple[int, int] | None:
        """(index, distance) of the most similar hash; None if none looks the same."""
        if content == NO_HASH or not len(self._rows):
            return None
        asked = as_hashes(content)
        keys = _band_keys(asked)[0] + (np.arange(BANDS, dtype=np.uint32) << BITS_PER_BAND)
        starts = np.searchsorted(self._keys, keys, "left")
        stops = np.searchsorted(self._keys, keys, "right")
        found = [self._positions[a:b] for a, b in zip(starts, stops, strict=True) if a < b]
        if not found:
            return None
        rows = self._rows[np.unique(np.concatenate(found))]
        distances = distance(self._hashes[rows], asked)
        best = int(distances.argmin())
        if distances[best] > MAX_DISTANCE:
            return None
        return int(rows[best]), int(distances[best])


def find_neighbours(hashes: np.ndarray) -> Neighbours:
    """Each hash that looks like an earlier one, with the nearest of them.

    Equal hashes all point to their first one, so a million equal ones are a million pairs, not
    their square. Of hashes that share a band with more than MAX_COMPARED others some pairs may be
    missed.

    Args:
        hashes: u8[N, 32]. 10^6 take about 6 s of CPU time and 150 MB.

    Example:
        >>> find_neighbours(as_hashes(one.hash + other.hash + one.hash)).rows
        array([2])
    """
    first = _first_of_equal(hashes)
    structured = _has_structure(hashes)
    is_first = first == np.arange(len(hashes))
    unique = np.flatnonzero(is_first & structured)
    best = np.full(len(unique), MAX_DISTANCE + 1, np.uint8)
    nearest = np.zeros(len(unique), np.int64)
    for keys in _band_keys(hashes[unique]).T:
        _compare_within_band(hashes, unique, keys, best, nearest)
    near = best <= MAX_DISTANCE
    equal = np.flatnonzero(~is_first & structured)
    rows = np.concatenate([equal, unique[near]])
    earlier = np.concatenate([first[equal], unique[nearest[near]]])
    distances = np.concatenate([np.zeros(len(equal), np.uint8), best[near]])
    order = np.argsort(rows)
    return Neighbours(rows[order], earlier[order], distances[order])


def _compare_within_band(
    hashes: np.ndarray, unique: np.ndarray, keys: np.ndarray, best: np.ndarray, nearest: np.ndarray
) -> None:
    """Compare the hashes that agree in a band; note the nearest earlier one of each."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    for lag in range(1, min(MAX_COMPARED, len(keys) - 1) + 1):
        same = np.flatnonzero(keys[lag:] == keys[:-lag])
        if not len(same):
            break
        for start in range(0, len(same), CHUNK):
            part = same[start : start + CHUNK]
            # The sort is stable, so `early` comes before `late`, and no `late` comes twice.
            early, late = order[part], order[part + lag]
            found = distance(hashes[unique[early]], hashes[unique[late]])
            better = found < best[late]
            best[late[better]] = found[better]
            nearest[late[better]] = early[better]


def _band_keys(hashes: np.ndarray) -> np.ndarray:
    """u32[N, 13]: the bits of each band of hashes as a number."""
    keys = np.empty((len(hashes), BANDS), np.uint32)
    for start in range(0, len(hashes), CHUNK):
        bits = np.unpackbits(hashes[start : start + CHUNK], axis=1)
        padded = np.pad(bits, ((0, 0), (0, BANDS * BITS_PER_BAND - bits.shape[1])))
        by_band = padded.reshape(len(bits), BITS_PER_BAND, BANDS)
        keys[start : start + CHUNK] = np.tensordot(PLACES, by_band, (0, 1))
    return keys


def _first_of_equal(hashes: np.ndarray) -> np.ndarray:
    """i64[N]: the index of the first hash that is equal to each."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    order = np.lexsort(words.T)  # stable: equal hashes stay in their order
    ordered = words[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    starts = np.flatnonzero(is_new)
    first = np.empty(len(order), np.int64)
    first[order] = order[starts[np.cumsum(is_new) - 1]]
    return first


def _has_structure(hashes: np.ndarray) -> np.ndarray:
    return np.asarray(hashes.any(1))
