"""The pictures of runs for a report: images, labels, predictions and confidence as data URIs."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cid_ray.results.summary import METHOD_NAMES, RatioSummary
from cid_ray.storage import paths


def sample_pictures(summary: RatioSummary, folder: Path) -> list[dict[str, Any]]:
    """For each test image its pictures by name: image, label, each method, CID's confidence."""
    found: dict[str, dict[str, Any]] = {}
    for method in METHOD_NAMES:
        samples = summary.chosen.get(method, {}).get("samples", [])
        for sample in pictures_of(samples, folder, METHOD_NAMES[method]):
            if method != "cid":
                sample["images"].pop(f"confidence of {METHOD_NAMES[method]}", None)
            first = found.setdefault(sample["image_id"], sample)
            first["images"] |= sample["images"]
    return list(found.values())


def pictures_of(
    samples: list[dict[str, Any]], folder: Path, name: str = METHOD_NAMES["cid"]
) -> list[dict[str, Any]]:
    """The pictures of a run as data URIs; those of an image that has lost one are left out."""
    sure = f"confidence of {name}"
    names = {"image": "image", "label": "label", "prediction": name, "confidence": sure}
    found = []
    for sample in samples:
        named = {names[key]: paths.inside(folder, sample[key]) for key in names if key in sample}
        files = {shown: file for shown, file in named.items() if file is not None}
        if len(files) == len(named):  # records may be published without their images
            images = {shown: data_uri(file) for shown, file in files.items()}
            found.append(
                {"image_id": sample["image_id"], "images": images, "miou": sample.get("miou")}
            )
    return found


def data_uri(path: Path) -> str:
    """A PNG or JPEG file for the `src` of an image."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()
