"""What a ladder of batch sizes says: the images that each size needs for the same mIoU on val.

It is the companion of the worker ladder. Workers stay efficient with a larger batch, and a larger
batch may need more images. What a batch of k times the size saves is k times fewer steps, less what
it needs more of images.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass

from cid_ray.config import InputError
from cid_ray.results.figures import COLORS, GRAY, add_legend, new_figure, to_svg
from cid_ray.results.formatting import format_mean
from cid_ray.results.ladder import Curve, count_of, curves_of, failed_lines, half_interval
from cid_ray.results.ladder_records import Numbers, recommendation_record
from cid_ray.results.records import Record, of_event
from cid_ray.results.summary import METHOD_NAMES

HEADER = (
    "labeled images per step",
    "images in all",
    "test mIoU (repeats)",
    "val target",
    "images to it",
    "steps",
)
VAL_SCORE = "val/miou_teacher"


def curve_of(records: list[Record]) -> Curve:
    """The ladder's one curve: batch size -> scores on test."""
    return curves_of("batch", records)[0]


def val_curves(records: list[Record]) -> dict[float, dict[int, list[tuple[int, float]]]]:
    """Batch size -> repeat (its seed) -> [(images seen, val mIoU)] of each finished training."""
    finished = {final["run"] for final in of_event(records, "final")}
    found: dict[float, dict[int, list[tuple[int, float]]]] = {}
    for rung in of_event(records, "rung"):
        if rung["run"] in finished and rung[VAL_SCORE] is not None:
            runs = found.setdefault(float(rung["params"]["data.batch_size"]), {})
            runs.setdefault(rung["seed"], []).append((rung["images_seen"], rung[VAL_SCORE]))
    return {
        size: {seed: sorted(points) for seed, points in found[size].items()}
        for size in sorted(found)
    }


def target_of(records: list[Record]) -> float:
    """The val mIoU that every size reaches in its mean: the lowest of their last means, rounded
    down.

    Raises:
        InputError: no training has a val mIoU.
    """
    last = [
        statistics.mean(points[-1][1] for points in runs.values())
        for runs in val_curves(records).values()
    ]
    if not last:
        raise InputError(
            "the ladder 'batch' compares the images to a val mIoU, and no training has one: val "
            "needs images with labels"
        )
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
    return any(points[0][1] >= target for points in val_curves(records)[size].values())


def images_of(records: list[Record]) -> dict[float, dict[int, float]]:
    """Batch size -> repeat -> images to the target; none where a repeat never reached it."""
    target = target_of(records)
    found: dict[float, dict[int, float]] = {}
    for size, runs in val_curves(records).items():
        images = {seed: images_to(target, points) for seed, points in runs.items()}
        reached = {seed: count for seed, count in images.items() if count is not None}
        found[size] = reached if len(reached) == len(images) else {}
    return found


def images_seen(records: list[Record]) -> dict[float, float]:
    """Batch size -> images that a training saw in all: whole steps of a whole batch."""
    finals = of_event(records, "final")
    found = {count_of("batch", final): float(final["images_seen"]) for final in finals}
    return dict(sorted(found.items()))


def images_per_step(records: list[Record]) -> dict[float, float]:
    """Batch size -> images of a step, those of the pool included."""
    return {
        count_of("batch", final): final["images_seen"] / final["step"]
        for final in of_event(records, "final")
    }


@dataclass(frozen=True)
class ToTarget:
    """What a batch size needs until it reaches the target.

    Attributes:
        images: seen until then, the mean of the repeats. images_sd: how much these differ; None of
            one repeat.
        steps: as many. steps_sd: as of the images.
        factor: times the images of the smallest size that reached the target, the geometric mean of
            the repeats that both have; None where they share none.
        factor_low: the low end of its 95 % interval (t); None with less than two shared repeats.
        factor_high: the high end.
        speedup: how many times as fast as that size, on as many times the workers.
    """

    images: float
    images_sd: float | None
    steps: float
    steps_sd: float | None
    factor: float | None
    factor_low: float | None
    factor_high: float | None
    speedup: float | None


def to_target(records: list[Record]) -> dict[float, ToTarget | None]:
    """Batch size -> what it needs; None where a training never reached the target."""
    images = images_of(records)
    smallest = min((size for size, own in images.items() if own), default=0.0)
    found: dict[float, ToTarget | None] = dict.fromkeys(images)
    for size, own in images.items():
        if not own:
            continue
        per_step = images_per_step(records)[size]
        mean = statistics.mean(own.values())
        sd = statistics.stdev(own.values()) if len(own) > 1 else None
        factor, low, high = paired_factor(own, images[smallest])
        found[size] = ToTarget(
            images=mean,
            images_sd=sd,
            steps=mean / per_step,
            steps_sd=None if sd is None else sd / per_step,
            factor=factor,
            factor_low=low,
            factor_high=high,
            speedup=None if factor is None else size / smallest / factor,
        )
    return found


def paired_factor(
    first: dict[int, float], second: dict[int, float]
) -> tuple[float | None, float | None, float | None]:
    """Geometric mean of first / second over shared repeats, and its 95 % interval (t).

    Example:
        >>> paired_factor({0: 300.0}, {0: 200.0})
        (1.5, None, None)
    """
    shared = [repeat for repeat in first if repeat in second]
    logs = [math.log(first[repeat] / second[repeat]) for repeat in shared]
    if not logs:
        return None, None, None
    mean = statistics.mean(logs)
    if len(logs) < 2:
        return math.exp(mean), None, None
    half = half_interval(logs)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def conclusions(records: list[Record]) -> list[Record]:
    """The `recommendation` record."""
    numbers: Numbers = {"target_miou": target_of(records)}
    in_all, needs = images_seen(records), to_target(records)
    sizes: dict[str, Numbers] = {
        f"{size:g}": {"images_seen": in_all[size], **(asdict(own) if own else {})}
        for size, own in needs.items()
    }
    method = curve_of(records).method
    return [recommendation_record("batch", method, numbers=numbers, by_count=sizes)]


def rows(records: list[Record]) -> list[tuple[str, ...]]:
    """The rows below HEADER."""
    found: list[tuple[str, ...]] = []
    curve, target, in_all = curve_of(records), target_of(records), images_seen(records)
    for size, own in to_target(records).items():
        score = format_mean(curve.mean(size), curve.sd(size))
        repeats = len(curve.samples(size))
        cells = ("not reached",) * 2
        if own:
            cells = (spread(own.images, own.images_sd), spread(own.steps, own.steps_sd))
        total = f"{in_all[size]:,.0f}"
        found.append((f"{size:g}", total, f"{score} ({repeats})", f"{target:g}", *cells))
    return found


def spread(mean: float, sd: float | None) -> str:
    """ "4,352 ± 362": mean and standard deviation over repeats."""
    return f"{mean:,.0f}" if sd is None else f"{mean:,.0f} ± {sd:,.0f}"


def lines(records: list[Record]) -> list[str]:
    """What a larger batch costs and saves."""
    sizes = to_target(records)
    reached = {size: own for size, own in sizes.items() if own}
    name, target = METHOD_NAMES[curve_of(records).method], target_of(records)
    found = []
    totals = images_seen(records).values()
    if min(totals) != max(totals):
        found.append(
            f"{name}: sizes saw {min(totals):,.0f} to {max(totals):,.0f} images in all, because "
            "steps and the pool's batch are whole numbers"
        )
    early = [f"{size:g}" for size in reached if reached_at_first_rung(records, size)]
    if early:
        found.append(
            f"{name}: batch {', '.join(early)} had {target:g} mIoU at its first rung or before, so "
            "sizes cannot be compared: set earlier train.rungs"
        )
    else:
        for size in list(reached)[1:]:
            smallest, own = min(reached), reached[size]
            if own.factor is None or own.speedup is None:
                continue
            interval = " (one repeat)"
            if own.factor_low is not None:
                interval = f" ({own.factor_low:.2f} to {own.factor_high:.2f})"
            found.append(
                f"{name}: {target:g} mIoU on val takes {own.factor:.2f}{interval} times the images "
                f"with a batch of {size:g} as with {smallest:g}, so {size / smallest:g} times the "
                f"workers are about {own.speedup:.1f} times as fast, if they are efficient"
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
    for number, (size, runs) in enumerate(val_curves(records).items()):
        rungs = list(zip(*runs.values(), strict=False))
        images = [points[0][0] for points in rungs]
        means = [statistics.mean(score for _, score in points) for points in rungs]
        axis.plot(images, means, "o-", color=colors[number % len(colors)], label=f"batch {size:g}")
    axis.axhline(target_of(records), color=GRAY, ls="--", lw=1, label="target")
    axis.set_xlabel("images seen")
    axis.set_ylabel("mIoU on val images, %")
    add_legend(axis)
    return to_svg(figure)
