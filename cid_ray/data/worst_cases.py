"""Which labeled images of a split a person should see first, each with the rule that chose it.

Void, classes and sizes are those of the index. Edges (`data/edge_fit.py`) are measured by the
caller on as many images as it wants to decode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cid_ray.data.edge_fit import EdgeFit
from cid_ray.data.table import Table
from cid_ray.data.table_summary import image_sizes

ONE_CLASS_SHARE = 0.5  # of an image's labeled pixels, from which on one class covers it
Cases = Iterator[tuple[int, str]]  # (row, why), the worst first


def worst_cases(
    table: Table, rows: np.ndarray, fits: Mapping[int, EdgeFit], count: int
) -> dict[int, str]:
    """The rows of the worst cases, each with the reason, in the order in which to show them.

    Args:
        table: the data set.
        rows: the labeled rows of one split, i64[n].
        fits: row -> how its mask's edges follow the image; for some of the rows.
        count: how many cases.

    Returns:
        At most `count` of the rows: fewer when the split is smaller.

    Example:
        >>> worst_cases(table, table.rows("val"), {}, count=1)
        {192: '31 % void (median 4 %)'}
    """
    pixels = table.class_pixels[rows]
    edges = _loose_edges(fits)
    void = _much_void(table, rows, pixels)
    one_class = _one_class(table, rows, pixels)
    rarest = _rarest_class(table, rows, pixels)
    sizes = _odd_sizes(table, rows)
    # Each turn takes a rule's next case. Edges come most often: what they show is in no count.
    turns = [edges, edges, void, edges, one_class, edges, rarest, edges, sizes, edges]
    found: dict[int, str] = {}
    num_before = -1
    while num_before < len(found) < count:
        num_before = len(found)
        for cases in turns:
            row, why = next((case for case in cases if case[0] not in found), (None, ""))
            if row is not None and len(found) < count:
                found[row] = why
    for row in rows.tolist():  # nothing is odd about the others
        if len(found) == min(count, len(rows)):
            break
        found.setdefault(row, "no rule chose it")
    return found


def _loose_edges(fits: Mapping[int, EdgeFit]) -> Cases:
    if not fits:
        return
    median = median_fit(fits)
    for row, edges in sorted(fits.items(), key=lambda item: item[1].fit):
        mirrored = f"; fits better mirrored {edges.mirrored}" if edges.mirrored else ""
        yield row, f"mask edges fit the image by {edges.fit:.2f} (median {median:.2f}){mirrored}"


def median_fit(fits: Mapping[int, EdgeFit]) -> float | None:
    """The median over a split; None if nothing was measured."""
    return float(np.median([edges.fit for edges in fits.values()])) if fits else None


def _much_void(table: Table, rows: np.ndarray, pixels: np.ndarray) -> Cases:
    share = 1 - pixels.sum(1) / np.maximum(1, image_sizes(table, rows).prod(1))
    median = np.median(share)
    for index in np.argsort(-share, kind="stable"):
        if share[index] <= 0:
            return
        yield int(rows[index]), f"{_percent(share[index])} void (median {_percent(median)})"


def _one_class(table: Table, rows: np.ndarray, pixels: np.ndarray) -> Cases:
    share = pixels.max(1) / np.maximum(1, pixels.sum(1))
    for index in np.argsort(-share, kind="stable"):
        if share[index] < ONE_CLASS_SHARE:
            return
        name = table.classes[int(pixels[index].argmax())]
        yield int(rows[index]), f"{_percent(share[index])} of the labeled pixels are {name}"


def _rarest_class(table: Table, rows: np.ndarray, pixels: np.ndarray) -> Cases:
    """The images with the most of the class that has the fewest pixels in the split."""
    totals = pixels.sum(0)
    present = np.flatnonzero(totals)
    if not len(present):
        return
    rarest = int(present[totals[present].argmin()])
    for index in np.argsort(-pixels[:, rarest], kind="stable"):
        if not pixels[index, rarest]:
            return
        share = _percent(pixels[index, rarest] / pixels[index].sum())
        yield int(rows[index]), f"the rarest class, {table.classes[rarest]}: {share}"


def _odd_sizes(table: Table, rows: np.ndarray) -> Cases:
    """The images whose width and height differ most from the median, as factors."""
    sizes = image_sizes(table, rows)
    median = np.median(sizes, axis=0)
    oddness = np.abs(np.log(np.maximum(1, sizes) / np.maximum(1, median))).sum(1)
    usual = f"{median[0]:.0f} × {median[1]:.0f}"
    for index in np.argsort(-oddness, kind="stable"):
        if not oddness[index]:
            return
        width, height = sizes[index]
        yield int(rows[index]), f"odd size {width} × {height} (median {usual})"


def _percent(share: float) -> str:
    """ "31 %", "0.4 %"."""
    percent = 100 * float(share)
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"
