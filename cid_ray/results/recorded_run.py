"""A run folder as a comparison reads it: its configuration and its records, nothing else."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cid_ray.config import Config, InputError
from cid_ray.results.records import RECORDS_FILE, Record, RecordReader
from cid_ray.results.run_kind import refuse_ladder
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir

Metric = Literal["val/miou_teacher", "val/miou"]


@dataclass(frozen=True)
class RecordedRun:
    """What a run folder says.

    Attributes:
        name: what it is called beside the other runs.
        folder: as the user named it.
        config: the configuration that it ran with.
        records: as `read_records` returns them.
        metric: whose scores are shown.
    """

    name: str
    folder: str
    config: Config
    records: list[Record]
    metric: Metric


def names_of(folders: Sequence[PathOrUri]) -> list[str]:
    """What to call each of several runs: its folder's last component if no other has the same.

    Raises:
        InputError: two of them are the same run.

    Example:
        >>> names_of(["runs/a", "runs/b"]), names_of(["old/a", "new/a"])
        (['a', 'b'], ['old/a', 'new/a'])
    """
    seen: dict[str, PathOrUri] = {}
    for folder in folders:
        location = _location(folder)
        if location in seen:
            raise InputError(f"{folder} is the same run as {seen[location]}; name each run once")
        seen[location] = folder
    last = [posixpath.basename(location) for location in seen]
    count = Counter(last)
    return [
        name if name and count[name] == 1 else str(folder)
        for name, folder in zip(last, folders, strict=True)
    ]


def _location(folder: PathOrUri) -> str:
    """The same text for all names of one folder."""
    if not paths.is_remote(folder):
        return Path(os.path.realpath(folder)).as_posix()
    scheme, _, path = str(folder).partition("://")
    return f"{scheme}://{posixpath.normpath(path)}"


def read_run(
    run_dir: RunDir, name: str, reader: RecordReader, metric: Metric | None = None
) -> RecordedRun:
    """Read a run folder that was pulled.

    Args:
        run_dir: the folder of a search or of one training.
        name: what to call it.
        reader: of its records.
        metric: whose scores are shown; None: as the run was configured.

    Raises:
        InputError: it is no run folder, its configuration is damaged, or it holds a ladder.
    """
    if not reader.path.is_file():
        raise InputError(
            f"{run_dir} is not a run folder: it has no {RECORDS_FILE}; give a folder that `tune` "
            "or `train` wrote"
        )
    refuse_ladder(run_dir)
    config = _read_config(run_dir)
    return RecordedRun(name, str(run_dir), config, reader.read(), metric or config.search.metric)


def _read_config(run_dir: RunDir) -> Config:
    """The configuration; every message about it names the folder."""
    try:
        return load_run_config(run_dir)
    except InputError as error:
        if str(run_dir) in str(error):
            raise
        raise InputError(f"{run_dir}/{CONFIG_FILE}: {error}") from None
