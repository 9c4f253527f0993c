"""Checkpoints: everything that the next step depends on, written atomically, read without running code.

One file per checkpoint: student, teacher, the method's statistics, optimizer, schedule, step, torch's RNG, the config
as text, the class names. They lie in the run's folder or, with `train.checkpoint_folder`, in an object store; a kill
while one is written loses nothing.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import torch

from cid_ray import places
from cid_ray.config import Config, InputError
from cid_ray.places import Name


def save(name: Name, modules: dict[str, Any], config: Config, classes: list[str], keep: int = 1, **extra: Any) -> None:
    """`modules`: anything with state_dict(); `extra`: plain values. The `keep` - 1 last files before this one stay."""
    content = {
        "config": config.to_yaml(),
        "classes": list(classes),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        **{part: module.state_dict() for part, module in modules.items()},
        "extra": json.dumps(extra),
    }
    older = older_ones(name)
    if keep > 1 and places.exists(name):
        number = int(str(older[0])[-23:-3]) + 1 if older else 0  # not the time: clocks of nodes differ
        older.insert(0, f"{os.path.splitext(name)[0]}-{number:020d}.pt")
        places.second_name(name, older[0])
    with places.writing(name) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of a file that is not whole: hides why
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
    for spare in older[keep - 1 :]:
        places.remove(spare)


def older_ones(name: Name) -> list[Name]:
    """The files that this one has replaced, newest first."""
    folder, own = os.path.split(name)
    pattern = re.compile(re.escape(os.path.splitext(own)[0]) + r"-\d{20}\.pt")
    return [
        places.join(folder, found) for found in reversed(places.paths(folder, below=False)) if pattern.fullmatch(found)
    ]


def clear_partial(name: Name) -> None:
    """Remove what a killed process had begun to write here."""
    folder = os.path.split(name)[0]
    stem = re.compile(r"(last|best)(-\d{20})?\.pt\..+\.partial")
    for found in places.paths(folder, below=False):
        if stem.fullmatch(found):
            places.remove(places.join(folder, found))


def load_newest(name: Name) -> tuple[dict[str, Any], list[str]]:
    """The newest checkpoint that can be read, and a warning for each that cannot; InputError when there is none."""
    told: list[str] = []
    *newer, oldest = (name, *older_ones(name))
    for candidate in newer:
        try:
            return load(candidate), told
        except InputError as error:
            told.append(f"{error}; going on from the one before")
    return load(oldest), told


def load(name: Name) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; InputError when it is none, OSError when it cannot be reached."""
    try:
        with places.reading(name) as file:
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        content["extra"] = json.loads(content["extra"])
        return content
    except FileNotFoundError:
        raise InputError(f"checkpoint {name} does not exist") from None
    except OSError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"checkpoint {name} cannot be read ({reason[:160]})") from None


def restore(content: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """Puts the states and the RNG back; returns the extra values."""
    for name, module in modules.items():
        module.load_state_dict(content[name])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["cuda_rng"])
    return content["extra"]  # type: ignore[no-any-return]
