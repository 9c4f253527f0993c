"""Checkpoints: all that the next step depends on, written atomically, read without running code.

One file per checkpoint: the states of student, teacher, method, optimizer and schedule, of the
labeler of self-training, torch's RNG, the config as text, and as JSON plain values and what a
network must know of its data set. The files are in the run's folder or, with
`train.checkpoint_dir`, in an object store. A kill during a write loses nothing: the former file
stays.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import torch

from cid_ray.config import Config, InputError, error_summary
from cid_ray.data.input_spec import ModelData
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

NUMBER_DIGITS = 20  # of an older checkpoint's file name: last-00000000000000000007.pt


def save_checkpoint(
    name: PathOrUri,
    modules: dict[str, Any],
    config: Config,
    data: ModelData,
    keep: int = 1,
    **extra: Any,
) -> None:
    """Write a checkpoint. The `keep` - 1 checkpoints before it stay, with a number in their name.

    Args:
        name: the file, such as `runs/mine/checkpoints/train/last.pt`.
        modules: name -> anything with a `state_dict()`.
        config: stored as YAML text.
        data: classes, colors and how image files are read, stored as JSON.
        keep: how many checkpoints there are afterwards, at most.
        extra: plain values, stored as JSON.
    """
    content = {
        "config": config.to_yaml(),
        "data": data.model_dump_json(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        **{part: module.state_dict() for part, module in modules.items()},
        "extra": json.dumps(extra),
    }
    older = previous_checkpoints(name)
    if keep > 1 and paths.exists(name):
        # Numbered, not dated: the clocks of nodes differ.
        number = _number_of(older[0]) + 1 if older else 0
        older.insert(0, f"{os.path.splitext(name)[0]}-{number:0{NUMBER_DIGITS}d}.pt")
        paths.link_or_copy(name, older[0])
    with paths.atomic_write(name) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch's writer hides a full disk behind an error about an unfinished archive.
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else error from None
    for surplus in older[keep - 1 :]:
        paths.remove(surplus)


def previous_checkpoints(name: PathOrUri) -> list[PathOrUri]:
    """The kept checkpoints before this one, newest first."""
    folder, own_name = os.path.split(name)
    stem = re.escape(os.path.splitext(own_name)[0])
    pattern = re.compile(stem + rf"-\d{{{NUMBER_DIGITS}}}\.pt")
    files = reversed(paths.list_files(folder, recursive=False))
    return [paths.join(folder, file) for file in files if pattern.fullmatch(file)]


def _number_of(name: PathOrUri) -> int:
    return int(str(name).removesuffix(".pt")[-NUMBER_DIGITS:])


def remove_partial_files(name: PathOrUri) -> None:
    """Remove the files that a killed process did not finish writing."""
    folder = os.path.split(name)[0]
    pattern = re.compile(rf"(last|best)(-\d{{{NUMBER_DIGITS}}})?\.pt\..+\.partial")
    for file in paths.list_files(folder, recursive=False):
        if pattern.fullmatch(file):
            paths.remove(paths.join(folder, file))


def any_exists(name: PathOrUri) -> bool:
    """Whether there is this checkpoint or an older one."""
    return paths.exists(name) or bool(previous_checkpoints(name))


def load_newest_checkpoint(name: PathOrUri) -> tuple[dict[str, Any], list[str]]:
    """The newest checkpoint that can be read, and a warning for each newer one that cannot.

    Raises:
        InputError: none can be read.
    """
    warnings: list[str] = []
    *newer, oldest = (name, *previous_checkpoints(name))
    for candidate in newer:
        try:
            return load_checkpoint(candidate), warnings
        except InputError as error:
            warnings.append(f"{error}; resuming from the checkpoint before it")
    return load_checkpoint(oldest), warnings


def load_checkpoint(name: PathOrUri) -> dict[str, Any]:
    """The content of a checkpoint, its tensors on the CPU.

    Raises:
        InputError: the file does not exist or is damaged.
        OSError: the store cannot be reached.
    """
    try:
        with paths.open_read(name) as file:
            check_sums(file)
            # weights_only: a checkpoint is data, loading it must never run code.
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        content["extra"] = json.loads(content["extra"])
        return content
    except FileNotFoundError:
        raise InputError(f"checkpoint {name} does not exist") from None
    except OSError:
        raise
    except Exception as error:
        # torch raises many types for a damaged file: of pickle, zipfile, its own archive reader.
        raise InputError(
            f"checkpoint {name} cannot be read ({error_summary(error)[:160]})"
        ) from None


def check_sums(file: IO[bytes]) -> None:
    """Raise an error unless every part of the archive has its checksum: torch looks at none."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    file.seek(0)


@contextmanager
def content_errors(name: PathOrUri) -> Iterator[None]:
    """Raise an InputError for content that is not a checkpoint of this run."""
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise InputError(
            f"checkpoint {name} does not fit this run ({error_summary(e, with_type=True)[:160]}); "
            "remove it to train from the start, or choose another --out"
        ) from None


def restore_state(content: dict[str, Any], modules: dict[str, Any]) -> dict[str, Any]:
    """Load the states into the modules and set torch's RNG; returns the plain values.

    Raises:
        ValueError and others that `content_errors` knows: a state is not one of these modules.
    """
    for name, module in modules.items():
        check_alike(name, content[name], module.state_dict())
        if isinstance(module, torch.optim.Optimizer):
            check_moments(content[name], module)
    for name, module in modules.items():
        module.load_state_dict(content[name])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["cuda_rng"])
    return content["extra"]


# torch converts what it loads: numbers of other types, and an optimizer takes tensors of any shape.
# A run must continue with the values that were saved, so both are compared first.


def check_alike(name: str, saved: Any, own: Any) -> None:
    """Raise ValueError unless a saved state has the keys, types and shapes of the module's own.

    Another version of torch may lack a flag (True, False or None). What `own` does not have yet,
    such as an optimizer's moments, is not looked at.
    """
    if isinstance(own, torch.Tensor):
        if not isinstance(saved, torch.Tensor) or _form(saved) != _form(own):
            raise ValueError(f"{name} is {_form(saved)}, must be {_form(own)}")
    elif isinstance(own, dict):
        _check_type(name, saved, dict)
        for key, value in own.items():
            if key in saved:
                check_alike(f"{name}.{key}", saved[key], value)
            elif not isinstance(value, bool | None):
                raise KeyError(f"{name}.{key}")
    elif isinstance(own, list | tuple):
        _check_type(name, saved, list | tuple)
        if len(saved) != len(own):
            raise ValueError(f"{name} has {len(saved)} values, must have {len(own)}")
        for index, value in enumerate(own):
            check_alike(f"{name}.{index}", saved[index], value)
    elif isinstance(own, int | float):
        _check_type(name, saved, int | float)
    else:
        _check_type(name, saved, type(own))


def check_moments(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError unless every moment has the shape of its weight."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    names = [sorted(moments) for moments in saved["state"].values()]
    if any(each != names[0] for each in names):
        raise ValueError("optimizer.state has not the same moments for all weights")
    for index, moments in saved["state"].items():
        for name, value in moments.items():
            shapes = ((), weights[index].shape)
            is_moment = isinstance(value, torch.Tensor) and value.shape in shapes
            if value is not None and not (is_moment and _form(value)[0] == "float32"):
                raise ValueError(f"optimizer.state.{index}.{name} is {_form(value)}")


def _form(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, torch.Tensor):
        return (type(value).__name__,)
    special = [value.layout] if value.layout != torch.strided or value.is_meta else []
    return (str(value.dtype).removeprefix("torch."), tuple(value.shape), *special)


def _check_type(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is a {type(value).__name__}")
