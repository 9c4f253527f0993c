"""What is in the pool, in words: the sentences of `pool`, of report.md and of the report page.

All of it comes from one record of event `pool`, so neither torch nor the table is needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cid_ray.results.pool_types import MOSTLY_UNLIKE
from cid_ray.results.records import Record, of_event
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

SPOILS_SCORES = 2.0  # a near-duplicate of val or test is worse than anything about the pool
LESS_SURE = 1.959964  # standard errors
MAX_NAMED = 6  # groups or classes in a sentence
SPLIT_WORDS = {"labeled": "a labeled image", "val": "a val image", "test": "a test image"}


@dataclass(frozen=True)
class Finding:
    """One sentence about a pool."""

    weight: float  # the worst first: the fraction of the pool that it is about
    text: str


def newest_pool(records: Iterable[Record]) -> Record | None:
    """The newest record of event `pool`; None without any.

    Args:
        records: as `read_records` returns them.
    """
    found = of_event(records, "pool")
    return max(found, key=lambda record: float(record["timestamp"])) if found else None


def describe_pool(record: Record, run: PathOrUri) -> list[str]:
    """Lines for a person, the worst first, each with what to do.

    Args:
        record: of event `pool`.
        run: the run folder, as commands name it.

    Example:
        >>> describe_pool(newest_pool(read_records("runs/demo")), "runs/demo")[0]
        'Looked at 168 of 168 pool images of demo, against the 24 labels of 1_8-cid-000.'
    """
    head = (
        f"Looked at {record['images']} of {record['pool_count']} pool images of "
        f"{record['table']}, against the {record['labeled']} labels of {record['run']}."
    )
    findings = [*_copies(record), *_unlike(record), *_classes(record), *_others(record)]
    ordered = sorted(findings, key=lambda one: -one.weight)
    return [head, *(one.text for one in ordered), *_leave_out(record, run)]


def _copies(record: Record) -> Iterable[Finding]:
    for one in record["copies"]:
        if not one["count"]:
            continue
        such = f", such as {one['example']} of {one['example_of']}"
        if one["of"] == "pool":
            text = "another pool image" + such + ": they count twice. Leave them out."
        elif one["of"] == "labeled":
            text = SPLIT_WORDS["labeled"] + such + ": they add nothing. Leave them out."
        else:
            text = f"{SPLIT_WORDS[one['of']]}{such}: scores on {one['of']} are too good. "
            text += "Leave them out."
        part = one["count"] / max(1, record["images"])
        weight = SPOILS_SCORES + part if one["of"] in ("val", "test") else part
        counted = _counted(one["count"], "pool image is a near-duplicate", "near-duplicates")
        yield Finding(weight, f"{counted} of {text}")
    if not any(one["count"] for one in record["copies"]):
        yield Finding(-1.0, "No near-duplicates: in the pool, or of labeled, val and test images.")


def _counted(count: int, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count} pool images are {many}"


def _unlike(record: Record) -> Iterable[Finding]:
    by_name = {"features": record["by_features"], "colors": record["by_colors"]}
    found = {name: one for name, one in by_name.items() if one is not None}
    if not found:
        text = f"With {record['labeled']} labels nobody can tell which images are unlike them."
        yield Finding(-1.0, text)
        return
    shares = " and ".join(
        f"{one['percent']:.0f} % by {name} ({one['low']:.0f} to {one['high']:.0f} %)"
        for name, one in found.items()
    )
    shares += " are unlike every labeled image"
    chance = max(one["by_chance"] for one in found.values())
    groups = [one for one in record["groups"] if one["split"] == "pool" and one["beyond_chance"]]
    part = record["unlike"] / max(1, record["images"])
    if not groups and not any(one["beyond_chance"] for one in found.values()):
        text = f"The pool looks like the labels: {shares}; by chance {chance:.0f} % would be."
        yield Finding(-1.0, text)
        return
    text = f"Out of domain: of the pool {shares}; by chance {chance:.0f} % would be."
    if named := [one for one in groups if one["name"]]:
        text += f" Beyond chance: {_listed(map(_group_text, named))}."
    if part > MOSTLY_UNLIKE:
        text += " Most of the pool is another domain than the labels: label some of it (label_next)"
        text += ", and compare with a training without the pool (method=supervised)."
    else:
        text += " Look at images.csv: label some of them, or leave them out."
    yield Finding(part, text)


def _group_text(group: dict[str, Any]) -> str:
    count = max(group["features"], group["colors"])
    return f"{group['name']} {100 * count / max(1, group['images']):.0f} %"


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = len(shown) - MAX_NAMED
    return ", ".join(shown[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _classes(record: Record) -> Iterable[Finding]:
    of_kind: dict[str, list[tuple[str, dict[str, Any]]]] = {"absent": [], "rarer": []}
    for name, one in record["classes"].items():
        if one["finding"]:
            of_kind[one["finding"]].append((name, one))
    if absent := of_kind["absent"]:
        weight = sum(one["expected_labeled"] for _, one in absent) / 100
        text = f"The network expects nowhere in the pool: {_listed(name for name, _ in absent)}. "
        yield Finding(weight, text + "The pool cannot help there: add images that show them.")
    if rarer := of_kind["rarer"]:
        weight = sum(one["expected_labeled"] for _, one in rarer) / 100
        shown = _listed(
            f"{name} ({one['expected']:.2g} % of the pixels, {one['expected_labeled']:.2g} % in "
            "the labels)"
            for name, one in rarer
        )
        text = f"Expected far less often in the pool than in the labels: {shown}. Add images that "
        yield Finding(weight, text + "show them, or do not count on the pool there.")


def _others(record: Record) -> Iterable[Finding]:
    images = max(1, record["images"])
    if record["outlier_images"]:
        kinds = _listed(f"{kind} {count}" for kind, count in record["outliers"].items() if count)
        text = f"{_counted(record['outlier_images'], 'pool image is an outlier', 'outliers')} in "
        text += f"{kinds}: more than 3.5 robust deviations from the median. Leave out the broken."
        yield Finding(record["outlier_images"] / images, text)
    else:
        yield Finding(-2.0, "No outliers in brightness, contrast, size or shape.")
    if record["unreadable"]:
        text = f"{record['unreadable']} pool images cannot be read: training replaces them. "
        yield Finding(record["unreadable"] / images, text + "Leave them out.")
    excess = record["uncertainty_excess"]
    means = record["uncertainty"]
    shown = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
    if excess is not None and excess > LESS_SURE:
        text = f"The network is less sure of the pool than of val (mean uncertainty: {shown}). "
        text += "Its pseudo-labels are worse there than val says: label some (label_next)."
        yield Finding(0.0, text)
    else:
        yield Finding(-3.0, f"Mean uncertainty: {shown}.")


def _leave_out(record: Record, run: PathOrUri) -> list[str]:
    if not record["left_out"]:
        return ["Nothing to leave out."]
    text = f"Leave out {record['left_out']} images: {run}/pool/leave_out.txt."
    if record["split_files"]:
        folder = shlex.quote(f"{run}/{record['split_files']}")
        text += f" The same labels and the rest of the pool: --set data.split_files={folder}"
    return [text]


def group_rows(record: Record) -> list[tuple[str, ...]]:
    """Rows of the table of groups: split, group, labels, images, unlike by features and colors."""
    has = {name: record[f"by_{name}"] is not None for name in ("features", "colors")}
    return [
        (
            one["split"],
            one["name"] or "(none)",
            str(one["labeled"]),
            str(one["images"]),
            *(
                f"{100 * one[name] / max(1, one['images']):.0f} %" if has[name] else "–"
                for name in ("features", "colors")
            ),
        )
        for one in record["groups"]
    ]


GROUP_HEAD = ("split", "group", "labels", "images looked at", "unlike by features", "by colors")


def pool_pictures(record: Record, folder: Any) -> list[tuple[dict[str, str], Any]]:
    """The pictures whose files are still in the run folder, each with its path."""
    found = ((one, paths.inside(folder, one["file"])) for one in record["pictures"])
    return [(one, file) for one, file in found if file is not None]
