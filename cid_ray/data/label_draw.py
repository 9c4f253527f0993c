"""Which train images are labeled: a seeded order of all train images that have masks.

A draw is ONE order, and a ratio takes its first n images. Labels of 1/16 are therefore among those
of 1/8, and those among 1/4: scores at two ratios differ by the added labels, not by luck.

A draw covers the classes by rejection: of 64 seeded orders the first is taken whose leading 1/16
shows every class of train, else the order that shows most. Picking images rich in classes first
would be simpler, and would bias the small ratios.

In a table of tiles the labels are tiles. Val takes whole images of the label budget even so: tiles
of one image overlap, and a score on pixels that were trained on selects what remembers best.
"""

from __future__ import annotations

import numpy as np

from cid_ray.config import DataConfig, InputError, parse_label_ratio
from cid_ray.data.table import Table

MAX_TRIED_ORDERS = 64
POOL_STREAM = MAX_TRIED_ORDERS  # of random numbers; those below it are the tried orders
COVERED_FRACTION = 1 / 16  # of the order: the smallest usual ratio should show every class


def draw_labels(table: Table, data: DataConfig) -> np.ndarray:
    """i64[n]: the label budget of `data.ratio`, as train rows in the order of the draw.

    Raises:
        InputError: train has no mask, or fewer than the ratio asks for.
    """
    train = table.rows("train")
    masked = train[table.labeled[train]]
    if not len(masked):
        raise InputError("the table has no train image with a mask: nothing can be learned from it")
    return label_order(table, masked, data)[: _label_count(data.ratio, len(masked))]


def _label_count(ratio: str, num_masked: int) -> int:
    """The number of labels that a ratio such as "1/8", or a count such as "23", means."""
    fraction, count = parse_label_ratio(ratio)
    wanted = count if count is not None else int((fraction or 0) * num_masked + 0.5)
    if wanted > num_masked:
        raise InputError(
            f"data.ratio means {wanted} labeled images, but train has only {num_masked} masks"
        )
    if wanted < 1:
        raise InputError(
            f"data.ratio {ratio} of {num_masked} masks is no image at all; give a count such as '4'"
        )
    return wanted


def label_order(table: Table, masked: np.ndarray, data: DataConfig) -> np.ndarray:
    """i64[n]: the train rows with masks, i64[n], in the order in which this draw takes them."""
    has_class = table.class_pixels[masked] > 0  # bool[n, K]
    num_classes = int(has_class.any(0).sum())
    groups = table.groups(masked)
    images = np.array(table.image_ids(masked), dtype=object)
    num_leading = max(1, int(COVERED_FRACTION * len(masked) + 0.5))
    best_order = np.arange(len(masked))
    best_covered = -1
    for attempt in range(MAX_TRIED_ORDERS):
        rng = np.random.default_rng([data.split_seed, data.draw, attempt])
        order = _order_by_group(rng, groups, images, data.label_from)
        covered = int(has_class[order[:num_leading]].any(0).sum())
        if covered > best_covered:
            best_order, best_covered = order, covered
        if covered == num_classes:
            break
    return masked[best_order]


def _order_by_group(
    rng: np.random.Generator, groups: np.ndarray, images: np.ndarray, label_from: str
) -> np.ndarray:
    """i64[n]: a random order of n rows that treats their groups as `data.label_from` says."""
    order = rng.permutation(len(groups))
    if label_from == "any":
        return order
    names = rng.permutation(np.unique(groups))
    number_of = {name: number for number, name in enumerate(names)}
    group_numbers = np.array([number_of[name] for name in groups[order]])
    if label_from == "one_group":  # all images of a group, then those of the next group
        # All tiles of an image, too: it stands where its first tile does.
        return order[np.lexsort((_first_places(images[order]), group_numbers))]
    # each_group: the k-th of a group's n images gets the time (k + 1/2) / n. Sorted by time, every
    # leading part holds images of each group in proportion to the group's size.
    counts = np.bincount(group_numbers)
    by_group = np.argsort(group_numbers, kind="stable")
    place_in_group = np.empty(len(order), np.int64)
    place_in_group[by_group] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    times = (place_in_group + 0.5) / counts[group_numbers]
    return order[np.argsort(times, kind="stable")]


def _first_places(names: np.ndarray) -> np.ndarray:
    """i64[n]: where each of n names first occurs among them."""
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    return first[which]


def choose_val(table: Table, data: DataConfig, budget: np.ndarray) -> np.ndarray:
    """i64[m]: the rows of a label budget i64[n] that are val; none without `val_from_budget`.

    Their images are evenly spaced in the order of the draw, so val is nested over ratios as the
    labels are. With `label_from: each_group` they are evenly spaced group by group, so each group
    is in val. All tiles of a val image are val.
    """
    fraction = data.val_from_budget
    if not fraction:
        return np.empty(0, np.int64)
    if data.label_from == "each_group":
        budget = budget[np.argsort(table.groups(budget).astype(str), kind="stable")]
    image_ids = table.image_ids(budget)
    images = list(dict.fromkeys(image_ids))
    val_so_far = np.floor(np.arange(len(images) + 1) * fraction + 0.5)
    is_val = np.diff(val_so_far) > 0
    is_val[-1] |= not is_val.any()
    val_images = {image for image, chosen in zip(images, is_val, strict=True) if chosen}
    val = np.array([image in val_images for image in image_ids])
    num_left = int((~val).sum())
    if num_left < 2:
        raise InputError(
            f"data.val_from_budget={fraction:g} leaves {num_left} of {len(budget)} labeled images "
            "to train on, must leave at least 2: lower it, or raise data.ratio"
            + _describe_tiles(table, len(images))
        )
    return np.sort(budget[val])


def draw_pool(pool: np.ndarray, data: DataConfig) -> np.ndarray:
    """i64[m]: the part of the pool rows i64[n] that `data.pool_fraction` asks for, at least one.

    A draw has one order of the pool, and a fraction takes the first of it: a quarter is within the
    half. The order of the rows stays.
    """
    if data.pool_fraction == 1 or not len(pool):
        return pool
    count = max(1, int(data.pool_fraction * len(pool) + 0.5))
    rng = np.random.default_rng([data.split_seed, data.draw, POOL_STREAM])
    return pool[np.sort(rng.permutation(len(pool))[:count])]


def _describe_tiles(table: Table, num_images: int) -> str:
    """What the message about too few labels adds in a table of tiles."""
    if table.tile is None:
        return ""
    return f" (these are tiles of {num_images} images, and val takes whole images)"


def leave_out_val_images(table: Table, pool: np.ndarray, val: np.ndarray) -> np.ndarray:
    """i64[m]: pool rows i64[n] without the other tiles of val's images, which show its pixels."""
    if table.tile is None or not len(val):
        return pool
    val_images = set(table.image_ids(val))
    return pool[[image not in val_images for image in table.image_ids(pool)]]
