"""Versions, git commit and machine: what a record says about the process that measured it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "cid_ray",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "ray",
    "optuna",
    "numpy",
)
GIT_VARIABLE = "CID_RAY_GIT"
GIT_TIMEOUT_S = 10
SHORT_SHA = 12  # characters


@lru_cache(maxsize=1)  # git takes tens of milliseconds, and the answer never changes
def provenance() -> dict[str, Any]:
    """Versions, git commit and machine of this process, as fields of a record."""
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
    """The commit of the source, with "+" when the tree differs from it; None when it is not known.

    Outside a checkout (a container image, the working folder of a submitted job) the environment
    variable CID_RAY_GIT names it.
    """
    if named := os.environ.get(GIT_VARIABLE):
        return named[:SHORT_SHA]
    try:
        sha = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if sha.returncode != 0:
        return None
    return sha.stdout.strip()[:SHORT_SHA] + ("+" if changes.stdout.strip() else "")


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    folder = Path(__file__).resolve().parent
    return subprocess.run(
        ["git", *args], cwd=folder, capture_output=True, text=True, timeout=GIT_TIMEOUT_S
    )
