"""What a ladder of batch sizes says: the images that each size needs for the same mIoU on val.

It is the companion of the worker ladder. Workers stay efficient with a larger batch, and a larger
batch may need more images. What a batch of k times the size saves is k times fewer steps, less what
it needs more of images.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass

from cid_ray.results.figures import COLORS, GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_mean
from cid_ray.results.ladder import Curve, curves_of, failed_lines
from cid_ray.results.ladder_records import Numbers, recommendation_record
from cid_ray.results.records import Record, of_event
from cid_ray.results.summary import METHOD_NAMES

HEADER = ("labeled images per step", "test mIoU (repeats)", "val target", "images to it", "steps")
VAL_SCORE = "val/miou_teacher"


def curve_of(records: list[Record]) -> Curve:
    """The ladder's one curve: batch size -> scores on test."""
    return curves_of("batch", records)[0]


def val_curves(records: list[Record]) -> dict[float, list[list[tuple[int, float]]]]:
    """Batch size -> for each finished training [(images seen, val mIoU)]."""
    finished = {final["run"] for final in of_event(records, "final")}
    by_run: dict[str, list[tuple[int, float]]] = {}
    sizes: dict[str, float] = {}
    for rung in of_event(records, "rung"):
        if rung["run"] in finished and rung[VAL_SCORE] is not None:
            by_run.setdefault(rung["run"], []).append((rung["images_seen"], rung[VAL_SCORE]))
            sizes[rung["run"]] = float(rung["params"]["data.batch_size"])
    found: dict[float, list[list[tuple[int, float]]]] = {}
    for run, points in by_run.items():
        found.setdefault(sizes[run], []).append(sorted(points))
    return found


def target_of(records: list[Record]) -> float:
    """The val mIoU that every size reaches in its mean: the lowest of their last means, rounded
    down.
    """
    last = [
        statistics.mean(points[-1][1] for points in runs) for runs in val_curves(records).values()
    ]
    return float(math.floor(min(last)))


def images_to(target: float, points: list[tuple[int, float]]) -> float | None:
    """Images until a curve first reaches the target, between two rungs in proportion; None: never.

    Example:
        >>> images_to(50, [(100, 40.0), (200, 60.0)])
        150.0
    """
    before = None
    for images, score in points:
        if score >= target:
            if before is None:
                return float(images)
            fraction = (target - before[1]) / (score - before[1])
            return float(before[0] + fraction * (images - before[0]))
        before = (images, score)
    return None


def reached_at_first_rung(records: list[Record], size: float) -> bool:
    """Whether a training of this size had the target at its first rung: images are then a bound."""
    target = target_of(records)
    return any(points[0][1] >= target for points in val_curves(records)[size])


def mean_images(records: list[Record]) -> dict[float, float | None]:
    """Batch size -> mean images to the target; None where a training never reached it."""
    target = target_of(records)
    found: dict[float, float | None] = {}
    for size, runs in sorted(val_curves(records).items()):
        images = [images_to(target, points) for points in runs]
        reached = [count for count in images if count is not None]
        found[size] = statistics.mean(reached) if len(reached) == len(images) else None
    return found


def images_per_label(records: list[Record]) -> float:
    """Images of a step for each labeled one: 2 where the pool's batch is as large."""
    rung = of_event(records, "rung")[-1]
    return float(rung["images_seen"] / rung["step"] / rung["params"]["data.batch_size"])


@dataclass(frozen=True)
class ToTarget:
    """What a batch size needs until it reaches the target, the mean of its repeats.

    Attributes:
        images: seen until then. steps: as many.
        factor: times the images of the smallest size that reached the target.
        speedup: how many times as fast as that size, on as many times the workers.
    """

    images: float
    steps: float
    factor: float
    speedup: float


def to_target(records: list[Record]) -> dict[float, ToTarget | None]:
    """Batch size -> what it needs; None where a training never reached the target."""
    found: dict[float, ToTarget | None] = {}
    least: tuple[float, float] | None = None  # smallest size that reached it, and its images
    for size, images in mean_images(records).items():
        if images is None:
            found[size] = None
            continue
        smallest, fewest = least = least or (size, images)
        factor = images / fewest
        steps = images / (size * images_per_label(records))
        found[size] = ToTarget(images, steps, factor, size / smallest / factor)
    return found


def conclusions(records: list[Record]) -> list[Record]:
    """The `recommendation` record."""
    numbers: Numbers = {"target_miou": target_of(records)}
    sizes = {f"{size:g}": asdict(own) if own else {} for size, own in to_target(records).items()}
    method = curve_of(records).method
    return [recommendation_record("batch", method, numbers=numbers, by_count=sizes)]


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found: list[tuple[str, ...]] = []
    curve, target = curve_of(records), target_of(records)
    for size, own in to_target(records).items():
        score = format_mean(curve.mean(size), curve.sd(size))
        repeats = len(curve.samples(size))
        cells = (f"{own.images:,.0f}", f"{own.steps:,.0f}") if own else ("not reached",) * 2
        found.append((f"{size:g}", f"{score} ({repeats})", f"{target:g}", *cells))
    return found


def lines(records: list[Record]) -> list[str]:
    """What a larger batch costs and saves."""
    sizes = to_target(records)
    reached = {size: own for size, own in sizes.items() if own}
    name, target = METHOD_NAMES[curve_of(records).method], target_of(records)
    found = []
    early = [f"{size:g}" for size in reached if reached_at_first_rung(records, size)]
    if early:
        found.append(
            f"{name}: batch {', '.join(early)} had {target:g} mIoU at its first rung or before, so "
            "sizes cannot be compared: set earlier train.rungs"
        )
    else:
        for size in list(reached)[1:]:
            smallest, own = min(reached), reached[size]
            found.append(
                f"{name}: {target:g} mIoU on val takes {own.factor:.2f} times the images with a "
                f"batch of {size:g} as with {smallest:g}, so {size / smallest:g} times the workers "
                f"are about {own.speedup:.1f} times as fast, if they are efficient"
            )
    missed = [f"{size:g}" for size in sizes if size not in reached]
    if missed:
        found.append(f"a repeat of batch {', '.join(missed)} never reached {target:g} mIoU")
    return [*found, *failed_lines(records)]


def draw(records: list[Record]) -> str:
    """Val mIoU against images for every size: the mean of its repeats."""
    figure, axes = new_figure(1, size=(7.0, 4.0))
    axis = axes[0]
    colors = list(COLORS.values())
    for number, (size, runs) in enumerate(sorted(val_curves(records).items())):
        rungs = list(zip(*runs, strict=False))
        images = [points[0][0] for points in rungs]
        means = [statistics.mean(score for _, score in points) for points in rungs]
        axis.plot(images, means, "o-", color=colors[number % len(colors)], label=f"batch {size:g}")
    axis.axhline(target_of(records), color=GRAY, ls="--", lw=1, label="target")
    axis.set_xlabel("images seen")
    axis.set_ylabel("mIoU on val images, %")
    add_legend(axis, 8, loc="lower right")
    return to_svg(figure)
