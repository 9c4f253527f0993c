"""Where checkpoints are stored: in the run folder, or in `train.checkpoint_dir` under its name."""

from __future__ import annotations

import os
import re

from cid_ray.config import Config, InputError
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

CHECKPOINT_FILE = re.compile(r"(last|best)[^/]*\.pt(\.[^/]*\.partial)?")


def checkpoint_dir(config: Config, run_dir: PathOrUri, *run: str) -> PathOrUri:
    """The checkpoint folder of one run, or without `run` the folder of all runs of this command.

    Raises:
        InputError: `run` is not a plain folder name.
    """
    for name in run:
        paths.check_component(name, run_dir)
    separate = config.train.checkpoint_dir
    if separate:
        return paths.join(separate, paths.basename(run_dir), *run)
    return paths.join(run_dir, "checkpoints", *run)


def has_checkpoint(config: Config, run_dir: PathOrUri, run: str) -> bool:
    """Whether a run left a checkpoint to resume from, also an older one (`train.num_to_keep`)."""
    files = paths.list_files(checkpoint_dir(config, run_dir, run), recursive=False)
    return any(name.startswith("last") and name.endswith(".pt") for name in files)


def remove_checkpoints(config: Config, run_dir: PathOrUri, run: str) -> None:
    """Remove the checkpoints of one run, and its folder if nothing else is in it.

    The folder is named by configuration and studies, which somebody else may have written, so
    other files in it stay.
    """
    folder = checkpoint_dir(config, run_dir, run)
    files = paths.list_files(folder)
    own = [name for name in files if CHECKPOINT_FILE.fullmatch(name)]
    if len(own) == len(files):
        paths.remove(folder)
        return
    for name in own:
        paths.remove(paths.join(folder, name))


def check_new_checkpoints(config: Config, run_dir: PathOrUri) -> None:
    """Raise InputError when a new run cannot write checkpoints, or would find another run's."""
    _check_stores(config, "--out", run_dir)
    if not config.train.checkpoint_dir:
        return
    folder = checkpoint_dir(config, run_dir)
    if paths.list_files(folder):
        raise InputError(
            f"{folder} already holds checkpoints of another run; choose an --out with another name"
        )


def check_resumed_checkpoints(config: Config, kept: Config, run_dir: PathOrUri) -> None:
    """Raise InputError when a resumed run would not find its checkpoints, or cannot write new ones.

    Args:
        config: the configuration to resume with.
        kept: the configuration in the run folder.
        run_dir: the run folder.
    """
    if config.train.checkpoint_dir != kept.train.checkpoint_dir:
        raise InputError(
            f"--resume {run_dir}: its checkpoints are stored in {checkpoint_dir(kept, run_dir)}; "
            f"leave out train.checkpoint_dir={config.train.checkpoint_dir}"
        )
    _check_stores(config, "--resume", run_dir)


def _check_stores(config: Config, option: str, run_dir: PathOrUri) -> None:
    for key, folder in ((option, run_dir), ("train.checkpoint_dir", config.train.checkpoint_dir)):
        if folder and paths.is_remote(folder):
            _check_writable(key, folder)


def _check_writable(key: str, folder: PathOrUri) -> None:
    """Write and remove a small file: a wrong bucket must fail now, not at the first checkpoint."""
    probe = paths.join(folder, f"probe-{os.getpid()}")
    try:
        with paths.atomic_write(probe) as file:
            file.write(b"checkpoints will be written here\n")
        paths.remove(probe)
    except (OSError, ValueError) as error:
        # pyarrow raises ValueError for what cannot be a bucket's name.
        raise paths.unwritable(f"{key} {folder}", error) from None
