"""Where a command's checkpoints lie: below its folder or, with `train.checkpoint_folder`, in a store under its name."""

from __future__ import annotations

import os
from pathlib import Path

from cid_ray import places
from cid_ray.config import Config, InputError
from cid_ray.places import Name


def folder_of(config: Config, root: Name, *run: str) -> Name:
    """The folder of a run of the command whose folder is `root`, or that of all its runs."""
    elsewhere = config.train.checkpoint_folder
    return places.join(elsewhere, _own_name(root), *run) if elsewhere else places.join(root, "checkpoints", *run)


def _own_name(root: Name) -> str:
    return str(root).rstrip("/").rpartition("/")[2] if places.is_remote(root) else Path(root).resolve().name


def check_new(config: Config, root: Name) -> None:
    """InputError when a new run could not write its checkpoints, or would take another one's for its own."""
    for key, store in (("--out", root), ("train.checkpoint_folder", config.train.checkpoint_folder)):
        if store and places.is_remote(store):
            check_writable(key, store)
    if not config.train.checkpoint_folder:
        return
    folder = folder_of(config, root)
    if places.paths(folder):
        raise InputError(f"{folder} already holds checkpoints of another run; choose an --out of another name")


def check_resumed(config: Config, kept: Config, root: Name) -> None:
    """InputError when a resumed run would look for its checkpoints where they are not, or could not write them."""
    mine, theirs = config.train.checkpoint_folder, kept.train.checkpoint_folder
    if mine != theirs:
        raise InputError(
            f"--resume {root}: its checkpoints lie in {folder_of(kept, root)}; leave out train.checkpoint_folder={mine}"
        )
    for key, store in (("--resume", root), ("train.checkpoint_folder", mine)):
        if store and places.is_remote(store):
            check_writable(key, store)


def check_writable(key: str, folder: Name) -> None:
    """Before a GPU-hour, not at the first rung."""
    probe = places.join(folder, f"probe-{os.getpid()}")
    try:
        with places.writing(probe) as file:
            file.write(b"checkpoints will be written here\n")
        places.remove(probe)
    except (OSError, ValueError) as error:  # ValueError: no name of a bucket
        raise InputError(f"{key} {folder} cannot be written ({places.reason(error)}); {places.STORE_REMEDY}") from None
