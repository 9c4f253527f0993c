"""Label Studio's JSON export: its tasks, and the regions of the annotation that counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.importers.label_studio_rle import decode_brush
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.foreign_json import read_json
from cid_ray.data.ingest.shapes import MIN_POINTS, Patch, draw_shape, reaches_outside, to_points
from cid_ray.storage.json_file import MEGABYTE

MAX_BYTES = 2000 * MEGABYTE
ELLIPSE_POINTS = 180
NO_AREA = "key points and other regions without an area"


@dataclass(frozen=True)
class Outline:
    """A polygon in percent of the image, turned clockwise about a point."""

    points: np.ndarray  # f64[N, 2]
    pivot: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0  # in radians

    def to_pixels(self, size: tuple[int, int]) -> np.ndarray:
        """f64[N, 2] in pixels of an image of (height, width)."""
        scale = np.array([size[1], size[0]]) / 100
        pivot = self.pivot * scale
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = (self.points * scale - pivot).T
        return pivot + np.stack([x * cos - y * sin, x * sin + y * cos], 1)


@dataclass(frozen=True)
class Region:
    """One labeled region."""

    label: str
    shape: bytes | Outline  # brush run lengths, or a polygon
    size: tuple[int, int] | None  # (height, width) of the image

    def draw(self, size: tuple[int, int]) -> Patch:
        """Its pixels; ValueError if it is of an image of another size, or damaged."""
        if self.size not in (None, size):
            said = f"{self.size[1]} x {self.size[0]}" if self.size else ""
            raise ValueError(f"a region of an image of {said} pixels, it has {size[1]} x {size[0]}")
        if isinstance(self.shape, bytes):
            return Patch(0, 0, decode_brush(self.shape, size))
        return draw_shape("polygon", self.shape.to_pixels(size), size)


@dataclass(frozen=True)
class Task:
    """One task with the annotation that counts."""

    number: Any
    data: Mapping[str, Any]  # what was imported, the image's reference among it
    annotation: Any  # its id; None: the task is not annotated
    regions: list[Region] = field(default_factory=list)


def read_tasks(path: Path, findings: Findings, bad_files: list[str]) -> list[Task]:
    """The tasks of an export. Skipped ones are left out.

    Args:
        path: the JSON export.
        findings: gets what is left out or guessed.
        bad_files: gets a message for each task with a damaged region, which is left out.

    Raises:
        InputError: it is no such export, or has two tasks of one id.
    """
    content = read_json(path, MAX_BYTES, _make_compact)
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        raise InputError(f"{path} is no JSON export of Label Studio: it must be a list of tasks")
    tasks: list[Task] = []
    seen = set()
    for entry in content:
        data, annotations = entry.get("data"), entry.get("annotations", entry.get("completions"))
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise InputError(
                f"{path}: a task lacks `data` or `annotations`; export as JSON, not as JSON-MIN"
            )
        number = entry.get("id")
        if not isinstance(number, int | str) or number in seen:
            raise InputError(f"{path}: a task has no id, or two have the id {number!r:.40}")
        seen.add(number)
        name = f"task {number}"
        chosen = _choose(annotations, name, findings)
        if chosen is None:
            if not annotations:
                tasks.append(Task(number, data, None))
            continue
        results = chosen.get("result")
        try:
            regions = _to_regions(results if isinstance(results, list) else [], name, findings)
        except ValueError as error:
            bad_files.append(f"{path}, {name}: {error}")
            continue
        tasks.append(Task(number, data, chosen.get("id"), regions))
    return tasks


def _make_compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Brush run lengths as bytes: a list of Python integers takes 8 times as much."""
    if isinstance(entry.get("rle"), list):
        try:
            entry["rle"] = bytes(entry["rle"])
        except (ValueError, TypeError):
            entry["rle"] = None
    return entry


def _choose(annotations: list[Any], name: str, findings: Findings) -> dict[str, Any] | None:
    """The annotation that counts: ground truth before others, then the latest."""
    usable = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not usable:
        if annotations:
            findings.add("left out", "tasks that were skipped (cancelled)", name)
        return None
    if len(usable) > 1:
        reason = "tasks with several annotations (ground truth, else the latest one, counts)"
        findings.add("guessed", reason, name)

    def rank(one: dict[str, Any]) -> tuple[bool, str]:
        return bool(one.get("ground_truth")), str(one.get("updated_at") or one.get("created_at"))

    return max(usable, key=rank)


def _to_regions(results: list[Any], name: str, findings: Findings) -> list[Region]:
    """The regions that have an area, in their order; ValueError for a damaged one."""
    regions = []
    dicts = [one for one in results if isinstance(one, dict)]
    labeled = {str(one.get("id")) for one in dicts if _labels_of(one)}
    for one in dicts:
        value = one.get("value")
        if not isinstance(value, dict) or not ({"rle", "points", "x", "vertices"} & value.keys()):
            continue  # a choice, a rating, a relation: not a region
        labels = _labels_of(one)
        if not labels:
            if str(one.get("id")) not in labeled:  # else its label is in another result
                findings.add("left out", "regions without a label", name)
            continue
        shape = _to_shape(value)
        if shape is None or (isinstance(shape, Outline) and len(shape.points) < MIN_POINTS):
            reason = NO_AREA if shape is None else "polygons of fewer than 3 points"
            findings.add("left out", reason, name)
            continue
        if one.get("image_rotation"):
            raise ValueError("the image was rotated in Label Studio; rotate it back and export")
        if len(labels) > 1:
            findings.add("guessed", "regions with several labels (the first counts)", name)
        if isinstance(shape, Outline) and reaches_outside(shape.points, (100, 100)):
            findings.add("changed", "regions cut at the image's border", name)
        height, width = one.get("original_height"), one.get("original_width")
        size = (height, width) if type(height) is int and type(width) is int else None
        regions.append(Region(labels[0], shape, size))
    return regions


def _labels_of(result: dict[str, Any]) -> list[str]:
    """The labels of a result: `brushlabels`, `polygonlabels`, `labels`, ..."""
    value = result.get("value")
    for key, found in value.items() if isinstance(value, dict) else ():
        if key.endswith("labels") and isinstance(found, list):
            return [label for label in found if isinstance(label, str)]
    return []


def _to_shape(value: dict[str, Any]) -> bytes | Outline | None:
    """A region's brush or outline; None if it has no area."""
    if "rle" in value:
        if not isinstance(value["rle"], bytes) or value.get("format", "rle") != "rle":
            raise ValueError("a brush region is not run lengths of Label Studio")
        return value["rle"]
    if "points" in value:
        return Outline(to_points(value["points"]))
    keys = ("x", "y", "width", "height", "radiusX", "radiusY", "rotation")
    numbers = {key: value[key] for key in keys if value.get(key) is not None}
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers.values()):
        raise ValueError("a region has a coordinate that is NaN or not a number")
    if {"x", "y", "radiusX", "radiusY"} <= numbers.keys():  # x and y are the centre
        steps = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
        radii = (numbers["radiusX"], numbers["radiusY"])
        points = np.stack([np.cos(steps), np.sin(steps)], 1) * radii
    elif {"x", "y", "width", "height"} <= numbers.keys():  # x and y are the corner
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
        points = corners * (numbers["width"], numbers["height"])
    else:
        return None
    pivot = numbers["x"], numbers["y"]
    angle = math.radians(numbers.get("rotation", 0) % 360)
    return Outline(to_points((points + pivot).tolist()), pivot, angle)
