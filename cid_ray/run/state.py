"""Checkpoints: everything that the next step depends on, written atomically, read without running code.

One file per checkpoint: student, teacher, the method's statistics, optimizer, schedule, step, torch's RNG, the config
as text, the class names. A file is written beside its name and renamed, so a kill while writing loses nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from cid_ray.config import Config, InputError


def save(path: Path, modules: dict[str, Any], config: Config, classes: list[str], keep: int = 1, **extra: Any) -> None:
    """`modules`: anything with state_dict(); `extra`: plain values. The `keep` - 1 last files before this one stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "config": config.to_yaml(),
        "classes": list(classes),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        **{name: module.state_dict() for name, module in modules.items()},
        "extra": json.dumps(extra),
    }
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    if keep > 1 and path.exists():
        older = path.with_name(f"{path.stem}-{time.time_ns():020d}{path.suffix}")
        try:
            os.link(path, older)  # `path` is never missing
        except OSError:
            shutil.copy2(path, older)
    partial.replace(path)
    for spare in older_ones(path)[keep - 1 :]:
        spare.unlink(missing_ok=True)


def older_ones(path: Path) -> list[Path]:
    """The files that `path` has replaced, newest first."""
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9]' * 20}{path.suffix}"), reverse=True)


def load_newest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest checkpoint that can be read, and a warning for each that cannot; InputError when there is none."""
    told: list[str] = []
    *newer, oldest = (path, *older_ones(path))
    for candidate in newer:
        try:
            return load(candidate), told
        except InputError as error:
            told.append(f"{error}; going on from the one before")
    return load(oldest), told


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; InputError when it is none."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["extra"] = json.loads(content["extra"])
        return content
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist") from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"checkpoint {path} cannot be read ({reason[:160]})") from None


def restore(content: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """Puts the states and the RNG back; returns the extra values."""
    for name, module in modules.items():
        module.load_state_dict(content[name])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    return content["extra"]  # type: ignore[no-any-return]
