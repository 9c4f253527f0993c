"""PGM and PPM files whose values Pillow would scale by the file's own white.

Format: https://netpbm.sourceforge.net/doc/ppm.html
"""

from __future__ import annotations

import re

import numpy as np

GAP = rb"(?:\s|#[^\n]*\n)+"
HEAD = re.compile(rb"P([2356])" + GAP + rb"(\d+)" + GAP + rb"(\d+)" + GAP + rb"(\d+)\s")


def netpbm_maxval(head: bytes) -> int:
    """The value of white in a PGM or PPM file, by its first bytes; 255 where there is none."""
    found = HEAD.match(head)
    return int(found[4]) if found else 255


def read_netpbm(encoded: bytes) -> np.ndarray:
    """u16[H, W] or [H, W, 3] of a PGM or PPM file, not scaled to its maxval."""
    found = HEAD.match(encoded)
    assert found, "netpbm_maxval has matched it"
    kind, width, height = (int(found[group]) for group in (1, 2, 3))
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    count = int(np.prod(shape))
    if kind in (2, 3):  # as text
        text = re.sub(rb"#[^\n]*", b"", encoded[found.end() :])
        values = np.array(text.split()[:count], dtype=np.int64)
        if values.size and not 0 <= values.min() <= values.max() <= int(found[4]):
            raise ValueError(f"a value outside 0..{int(found[4])}")
    else:
        dtype = np.dtype(">u2" if int(found[4]) > 255 else "u1")
        available = (len(encoded) - found.end()) // dtype.itemsize
        values = np.frombuffer(encoded, dtype, min(count, available), found.end())
    if values.size != count:
        raise ValueError(f"{values.size} of {count} values")
    return values.astype(np.uint16).reshape(shape)
