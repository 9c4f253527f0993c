"""The disk space of a search, estimated before it starts.

Nearly all of it are checkpoints. A complete trial keeps its own until the winners are scored on
test; those of a pruned trial are removed when it ends. So the most is needed when no trial is
pruned, just before the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cid_ray.config import Config, InputError
from cid_ray.results.formatting import format_bytes
from cid_ray.search.space import Space
from cid_ray.search.trial_spec import n_trials, search_studies
from cid_ray.storage import checkpoint_paths, paths
from cid_ray.storage.paths import PathOrUri

if TYPE_CHECKING:  # it imports torch
    from cid_ray.training.footprint import DiskBytes

RUNG_BYTES = 6_000  # the record of a rung, and its copy in the journal
PAGE_BYTES = 3_000_000  # the report, with its figures and images
# Hyperparameters that change the size of checkpoints or how many are kept.
SIZE_KEYS = ("model.", "optim.name", "optim.momentum", "train.")


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes that a search needs, and bytes that there are.

    Attributes:
        folder: of the checkpoints.
        trials: of all studies, without repeats.
        at_most: what is needed when no trial is pruned.
        at_least: what is needed when all but one trial of each study are pruned; 0 where even that
            is not certain.
        used: what the checkpoints of a resumed search take already.
        free: of the folder's file system; None when nobody knows.
        cache: a node's decoded images.
        cache_free: of this node's file system for temporary files.
    """

    folder: PathOrUri
    trials: int
    at_most: int
    at_least: int
    used: int
    free: int | None
    cache: int
    cache_free: int | None

    def __str__(self) -> str:
        used = f", {format_bytes(self.used)} of it used already" if self.used else ""
        text = f"disk: at most {format_bytes(self.at_most)} in {self.folder}{used}"
        text += f" ({_free_text(self.free)})"
        if self.may_be_full:
            text += (
                "; it fits only if trials are pruned: else lower search.trials or train.num_to_keep"
            )
        if self.cache:
            text += (
                f"; decoded images at most {format_bytes(self.cache)} in {tempfile.gettempdir()} "
                f"({_free_text(self.cache_free)})"
            )
        return text

    @property
    def may_be_full(self) -> bool:
        """Whether the disk is too small when no trial is pruned."""
        return self.free is not None and self.at_most - self.used > self.free

    @property
    def cannot_fit(self) -> bool:
        """Whether the disk is too small however many trials are pruned."""
        return self.free is not None and self.at_least - self.used > self.free

    def record_fields(self) -> dict[str, Any]:
        """The fields of the `disk` record."""
        return {
            "folder": str(self.folder),
            "at_most_bytes": self.at_most,
            "at_least_bytes": self.at_least,
            "used_bytes": self.used,
            "free_bytes": self.free,
            "cache_bytes": self.cache,
            "cache_free_bytes": self.cache_free,
        }


def check_disk(config: Config, space: Space, run: DiskBytes, run_dir: PathOrUri) -> DiskEstimate:
    """Estimate the disk space of a search.

    Args:
        config: its configuration.
        space: its parsed space.
        run: what one run writes.
        run_dir: its folder, which need not exist.

    Raises:
        InputError: the disk is too small, however many trials are pruned.
    """
    disk = estimate_disk(config, space, run, run_dir)
    if disk.cannot_fit:
        option = "train.checkpoint_dir" if config.train.checkpoint_dir else "--out"
        raise InputError(
            f"{disk.folder} has {_free_text(disk.free)}, but the checkpoints of "
            f"{disk.trials} trials need at least {format_bytes(disk.at_least - disk.used)}: choose "
            f"another {option}, or lower search.trials or train.num_to_keep"
        )
    return disk


def estimate_disk(config: Config, space: Space, run: DiskBytes, run_dir: PathOrUri) -> DiskEstimate:
    """What a search needs, and what there is; see `check_disk`."""
    train = config.train
    studies = search_studies(config)
    per_study = [n_trials(config, space, key) for key in studies]
    trials = sum(per_study)
    self_trained = sum(
        count
        for key, count in zip(studies, per_study, strict=True)
        if key.method == "self_training"
    )
    saved = len(train.rung_steps)
    if train.checkpoint_steps or train.checkpoint_minutes:
        saved = train.num_to_keep
    kept = min(saved, train.num_to_keep)
    checkpoints = kept * run.last + run.best
    pictures = train.num_sample_images * run.image  # predictions of one trial on val
    records = (len(train.rung_steps) + 1) * RUNG_BYTES
    # Shared by all trials: image and label of each sample of val and of test.
    shared = 2 * train.num_sample_images * 4 * run.image + PAGE_BYTES
    # Of each chosen run prediction and confidence, of the same test images and of the worst ones.
    shared += len(studies) * 4 * train.num_sample_images * run.image
    # A new checkpoint is written before the old one is removed.
    at_most = trials * (checkpoints + pictures + records) + shared + run.last
    if self_trained:
        at_most += (self_trained * kept + 1) * run.labeler
    complete = trials if config.search.pruner.name == "NopPruner" else len(studies)
    # Of a shared study other machines may run them; of another model they may be smaller.
    is_certain = not config.study.storage and not any(
        key.startswith(SIZE_KEYS) for key in config.search.space
    )
    folder = checkpoint_paths.checkpoint_dir(config, run_dir)
    return DiskEstimate(
        folder=folder,
        trials=trials,
        at_most=at_most,
        at_least=complete * checkpoints if is_certain else 0,
        used=_used_bytes(folder),
        free=_free_bytes(folder),
        cache=run.cache,
        cache_free=_free_bytes(tempfile.gettempdir()),
    )


def _free_bytes(folder: PathOrUri) -> int | None:
    """Free bytes of a folder's file system, also before the folder is made; None of a store."""
    if paths.is_remote(folder):
        return None
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _free_text(free: int | None) -> str:
    return "free space unknown" if free is None else f"{format_bytes(free)} free"


def _used_bytes(folder: PathOrUri) -> int:
    """Bytes of the files in a local folder."""
    if paths.is_remote(folder):
        return 0
    files = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_size for file in files)
