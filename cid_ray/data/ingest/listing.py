"""Which files of a folder are images. What is left out is counted and named."""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError
from cid_ray.data.ingest.findings import Findings

PNM_SUFFIXES = (".ppm", ".pgm", ".pnm")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", *PNM_SUFFIXES)


def list_images(folder: Path, findings: Findings) -> list[Path]:
    """The sorted image files of a folder and below it.

    Args:
        folder: the folder.
        findings: is told of what was left out.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    found = sorted(path for path in folder.rglob("*") if _is_image(path) and path.is_file())
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
