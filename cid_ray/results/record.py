"""Record rows: one JSON object a line in `rows.jsonl`, for every evaluation and every finished run.

A row says what was measured (`event`: rung or final), on what (method, ratio, label_count, split id, seed), by what
(config fingerprint, versions, git sha, device) and at what cost (images_seen, device-seconds). Rows are appended by one
process and flushed to disk; after a crash a row may appear twice, the reader keeps the last.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PACKAGES = ("cid_ray", "torch", "torchvision", "timm", "segmentation-models-pytorch", "ray", "optuna", "numpy")
KEY = ("event", "run", "images_seen", "ratio", "name")  # rows equal in these are the same measurement


class Rows:
    """Appends rows to a run's `rows.jsonl`."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rows.jsonl"

    def add(self, row: Row) -> None:
        data = json.dumps(row, allow_nan=False, default=float).encode() + b"\n"
        with self.path.open("ab") as file:
            if file.tell() and not _ends_with_newline(self.path):
                file.write(b"\n")  # a kill cut the last row short
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_rows(folder: Path) -> list[Row]:
    """Every row once, in order of first appearance, the last value of each; half-written lines are passed over."""
    path = folder / "rows.jsonl"
    found: dict[tuple[Any, ...], Row] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[tuple(row.get(name) for name in KEY)] = row
    return list(found.values())


def of_event(rows: Iterable[Row], event: str) -> list[Row]:
    return [row for row in rows if row.get("event") == event]


@lru_cache(maxsize=1)
def provenance() -> Row:
    """Versions, git commit and machine of this process."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "git": git_sha(),
    }


def git_sha() -> str | None:
    """The commit of the source, with "+" when the tree differs from it; None where nobody knows.

    Outside a checkout (an image, the working folder of a submitted job) it is what the variable CID_RAY_GIT says.
    """
    if told := os.environ.get("CID_RAY_GIT"):
        return told[:12]
    here = Path(__file__).resolve().parent
    try:
        sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return sha.stdout.strip()[:12] + ("+" if dirty.stdout.strip() else "") if sha.returncode == 0 else None
