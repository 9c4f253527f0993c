"""The findings of `pool`: the functions of pool_check.py, applied to the images of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cid_ray.data.ingest.near_index import find_neighbours
from cid_ray.inference.pool_check import (
    MAX_Z,
    Reference,
    near_known,
    outliers,
    rare_classes,
    wilson,
)
from cid_ray.inference.pool_scores import PoolScores
from cid_ray.results.pool_types import (
    MOSTLY_UNLIKE,
    CopyOf,
    PoolClass,
    PoolCopies,
    PoolGroup,
    UnlikeFields,
)

PICTURES_PER_REASON = 6
MAX_GROUPS = 40  # the largest; of tiles each image may be a group
SEVERITY: dict[CopyOf, int] = {"test": 0, "val": 1, "labeled": 2, "pool": 3}  # of copies


@dataclass(frozen=True)
class PoolImages:
    """N images that were looked at."""

    ids: list[str]
    groups: np.ndarray  # str[N]
    sizes: np.ndarray  # i64[N, 2]
    scores: PoolScores
    colors: np.ndarray  # f64[N, 6]


@dataclass(frozen=True)
class PoolFindings:
    """What is odd about a pool.

    Attributes:
        pool: its images.
        labeled: those of the labels.
        val: those of val that the network has seen.
        known: labeled, val and test -> ids and hashes u8[M, 32] of all of these images.
        class_pixels: i64[K], of the labels.
        classes: the K names.
    """

    pool: PoolImages
    labeled: PoolImages
    val: PoolImages
    known: dict[CopyOf, tuple[list[str], np.ndarray]]
    class_pixels: np.ndarray
    classes: list[str]
    copies: dict[CopyOf, dict[int, str]] = field(init=False)  # of what -> image -> id of the other

    def __post_init__(self) -> None:
        hashes = self.pool.scores.hashes
        found: dict[CopyOf, dict[int, str]] = {
            name: {one: ids[other] for one, other in near_known(hashes, known).items()}
            for name, (ids, known) in self.known.items()
        }
        near = find_neighbours(hashes)
        earlier = [self.pool.ids[index] for index in near.earlier.tolist()]
        found["pool"] = dict(zip(near.rows.tolist(), earlier, strict=True))
        object.__setattr__(self, "copies", found)

    @cached_property
    def references(self) -> dict[str, Reference]:
        """Name of a distance -> what it compares with; empty with too few labels."""
        features = self.labeled.scores.features, self.pool.scores.features
        found = {
            "features": Reference.of_features(*features),
            "colors": Reference.of_colors(self.labeled.colors),
        }
        return {name: one for name, one in found.items() if one is not None}

    def _distances(self, images: PoolImages) -> dict[str, np.ndarray]:
        """Name -> f64[n], relative to the threshold."""
        values = {"features": images.scores.features, "colors": images.colors}
        return {name: one.distances(values[name]) for name, one in self.references.items()}

    @cached_property
    def distances(self) -> dict[str, np.ndarray]:
        """Name -> f64[N] of the pool, relative to the threshold."""
        return self._distances(self.pool)

    @cached_property
    def is_unlike(self) -> np.ndarray:
        """bool[N]: unlike the labels by any distance."""
        found = np.zeros(len(self.pool.ids), bool)
        for values in self.distances.values():
            found |= values > 1
        return found

    @cached_property
    def outlier_z(self) -> dict[str, np.ndarray]:
        """Kind -> f64[N]."""
        return outliers(self.pool.colors, self.pool.sizes)

    @cached_property
    def is_outlier(self) -> np.ndarray:
        """bool[N]: too far from the pool's median by any kind."""
        return np.asarray((np.abs(np.stack(list(self.outlier_z.values()))) > MAX_Z).any(0))

    @cached_property
    def leaves_out_unlike(self) -> bool:
        """Whether images that are unlike the labels are to be left out.

        Not where most are: then the pool is another domain, and a method that uses it may gain
        from exactly these images.
        """
        beyond = any(one["beyond_chance"] for one in self._unlike().values())
        return beyond and float(self.is_unlike.mean()) <= MOSTLY_UNLIKE

    @property
    def left_out(self) -> list[str]:
        """Ids of the images to leave out."""
        out = self.is_outlier.copy()
        if self.leaves_out_unlike:
            out |= self.is_unlike
        for copied in self.copies.values():
            out[list(copied)] = True
        return [self.pool.ids[index] for index in np.flatnonzero(out).tolist()]

    def _reasons(self, index: int) -> list[str]:
        """Why an image is odd, the worst first."""
        found = [
            f"looks like {name} image {copied[index]}"
            for name, copied in sorted(self.copies.items(), key=lambda item: SEVERITY[item[0]])
            if index in copied
        ]
        for name, values in self.distances.items():
            if values[index] > 1:
                found.append(f"{name} {values[index]:.1f} times the threshold")
        for kind, z in self.outlier_z.items():
            if abs(z[index]) > MAX_Z:
                found.append(f"{kind} {z[index]:+.1f} robust deviations")
        return found

    def lines(self) -> list[dict[str, Any]]:
        """A line of images.csv for each image of the pool."""
        left_out = set(self.left_out)
        return [
            {
                "image_id": name,
                "group": self.pool.groups[index],
                **{
                    f"{key}_distance": round(float(x[index]), 4)
                    for key, x in self.distances.items()
                },
                "uncertainty": round(float(self.pool.scores.uncertainty[index]), 4),
                **{f"{kind}_z": round(float(z[index]), 2) for kind, z in self.outlier_z.items()},
                "left_out": int(name in left_out),
                "reasons": "; ".join(self._reasons(index)),
            }
            for index, name in enumerate(self.pool.ids)
        ]

    def oddest(self, count: int) -> list[tuple[int, str]]:
        """Indices of images to look at, each with the reason: some of every kind."""
        farthest = np.max([np.zeros(len(self.pool.ids)), *self.distances.values()], axis=0)
        z = np.abs(np.stack(list(self.outlier_z.values()))).max(0)
        by_kind = [
            *(list(self.copies[name]) for name in ("test", "val")),
            _one_of_each_first(
                [index for index in np.argsort(-farthest).tolist() if farthest[index] > 1],
                self.pool.groups,
            ),
            [index for index in np.argsort(-z).tolist() if z[index] > MAX_Z],
            *(list(self.copies[name]) for name in ("labeled", "pool")),
        ]
        chosen = dict.fromkeys(index for kind in by_kind for index in kind[:PICTURES_PER_REASON])
        return [(index, "; ".join(self._reasons(index))) for index in list(chosen)[:count]]

    # ---- the fields of the record ----

    def fields(self) -> dict[str, Any]:
        """The fields of a `pool` record that follow from the images."""
        unlike = self._unlike()
        return {
            "images": len(self.pool.ids),
            "labeled": len(self.labeled.ids),
            "by_features": unlike.get("features"),
            "by_colors": unlike.get("colors"),
            "unlike": int(self.is_unlike.sum()),
            "groups": [*self._groups("pool", self.pool), *self._groups("val", self.val)],
            **self._uncertainty(),
            "classes": self._classes(),
            "copies": self._copies(),
            "outliers": {k: int((np.abs(z) > MAX_Z).sum()) for k, z in self.outlier_z.items()},
            "outlier_images": int(self.is_outlier.sum()),
        }

    def _unlike(self) -> dict[str, UnlikeFields]:
        found: dict[str, UnlikeFields] = {}
        for name, values in self.distances.items():
            reference, total = self.references[name], len(values)
            count = int((values > 1).sum())
            low, high = wilson(count, total)
            found[name] = {
                "count": count,
                "percent": _percent(count / total),
                "low": _percent(low),
                "high": _percent(high),
                "by_chance": _percent(reference.by_chance),
                "chance_high": _percent(reference.chance_high),
                "beyond_chance": reference.is_beyond_chance(count, total),
            }
        return found

    def _groups(self, split: Literal["pool", "val"], images: PoolImages) -> list[PoolGroup]:
        distances = self._distances(images)
        found: list[PoolGroup] = []
        names, sizes = np.unique(images.groups.astype(str), return_counts=True)
        largest = names[np.argsort(-sizes, kind="stable")][:MAX_GROUPS]
        for name in sorted(largest.tolist()):
            here = images.groups == name
            total = int(here.sum())
            counts = {key: int((x[here] > 1).sum()) for key, x in distances.items()}
            beyond = [
                self.references[key].is_beyond_chance(count, total) for key, count in counts.items()
            ]
            found.append(
                {
                    "split": split,
                    "name": name,
                    "images": total,
                    "labeled": int((self.labeled.groups == name).sum()),
                    "features": counts.get("features", 0),
                    "colors": counts.get("colors", 0),
                    "beyond_chance": any(beyond),
                }
            )
        return found

    def _uncertainty(self) -> dict[str, Any]:
        named = {"labeled": self.labeled, "val": self.val, "pool": self.pool}
        values = {name: one.scores.uncertainty for name, one in named.items() if one.ids}
        excess = None
        if len(values.get("val", ())) > 1 and len(values["pool"]) > 1:
            variance = sum(
                float(values[name].var(ddof=1)) / len(values[name]) for name in ("val", "pool")
            )
            difference = float(values["pool"].mean() - values["val"].mean())
            excess = round(difference / max(variance, 1e-12) ** 0.5, 3)
        means = {name: round(float(x.mean()), 4) for name, x in values.items()}
        return {"uncertainty": means, "uncertainty_excess": excess}

    def _classes(self) -> dict[str, PoolClass]:
        true = self.class_pixels / max(1, self.class_pixels.sum())
        labeled, pool = (
            one.scores.fractions.astype(float).sum(0) / max(1, len(one.ids))
            for one in (self.labeled, self.pool)
        )
        absent, rarer = rare_classes(labeled, pool)
        return {
            name: {
                "labeled": _percent(true[k]),
                "expected_labeled": _percent(labeled[k]),
                "expected": _percent(pool[k]),
                "finding": "absent" if absent[k] else "rarer" if rarer[k] else "",
            }
            for k, name in enumerate(self.classes)
        }

    def _copies(self) -> list[PoolCopies]:
        found: list[PoolCopies] = []
        for name in SEVERITY:
            copied = self.copies[name]
            first = next(iter(copied), None)
            example = "" if first is None else self.pool.ids[first]
            example_of = "" if first is None else copied[first]
            found.append(
                {"of": name, "count": len(copied), "example": example, "example_of": example_of}
            )
        return found


def _one_of_each_first(order: list[int], groups: np.ndarray) -> list[int]:
    """Indices with the first of every group before all others."""
    firsts = {groups[index]: index for index in reversed(order)}
    return sorted(order, key=lambda index: firsts[groups[index]] != index)


def _percent(part: float) -> float:
    return round(min(100.0, 100 * float(part)), 4)
