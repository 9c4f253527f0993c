"""A run folder: the URI by which every machine finds it, and this process's local copy.

On a file system both are the same. With `--out s3://bucket/runs/mine` this process writes records,
journal, log and page in a temporary folder. It pushes them to the store after every event that a
resume must know. Checkpoints and sample images go to the store directly, because other nodes write
them. The store is the source of truth: a resume first pulls.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from cid_ray.config import (
    InputError,
    check_uri,
    holds_secret,
)
from cid_ray.storage import boundary, paths
from cid_ray.storage.lock import RunLock
from cid_ray.storage.paths import PathOrUri

CONFIG_FILE = "config.yaml"
RUN_FILES = ("records.jsonl", "study.journal")  # what a run without its configuration still holds
READ_ATTEMPTS = 3
READ_PAUSE_S = 0.2
MAX_PARALLEL_READS = 8  # small objects read at the same time: reading one is mostly waiting
# Part of a submitted job's working folder, which Ray deletes some time after the job.
RAY_JOB_WORKING_DIR = "runtime_resources/working_dir_files"
NOT_PUSHED = (".lock", ".partial")  # files that mean something on this machine only

FileStamp = tuple[int, int]  # time of the last write in nanoseconds since 1970, size in bytes


class RunDir:
    """The folder of one run.

    Args:
        name: a path or `s3://bucket/path`.
        is_new: the run is a new one, so the folder may not hold a run yet.

    Example:
        >>> with RunDir("s3://bucket/runs/mine") as run_dir:
        ...     run_dir.pull()
        ...     records = read_records(run_dir.local)

    Attributes:
        uri: the run folder as the user named it: a Path, or `s3://bucket/path`.
        local: the folder in which this process reads and writes the run's own files.
        remote: whether `uri` is in an object store, so that `local` is a copy.
        unreachable_since: seconds since 1970 at which reading the store failed first; 0 while it
            can be read.
    """

    def __init__(self, name: PathOrUri, is_new: bool = False):
        self.uri = _checked(str(name))
        self.remote = paths.is_remote(self.uri)
        self.local = Path(self.uri)
        if self.remote:
            # Pages show the run's name, so the copy gets it too.
            self.local = Path(tempfile.mkdtemp(prefix="cid_ray-"), paths.basename(self.uri))
        self.unreachable_since = 0.0
        self._is_new = is_new
        self._lock: RunLock | None = None
        # Local stamps of the files whose present state is in the store.
        self._pushed: dict[Path, FileStamp] = {}
        # The store's stamps of the files that were copied from it.
        self._pulled: dict[Path, FileStamp] = {}

    def __str__(self) -> str:
        return str(self.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.unlock()
        if not self.remote:
            return
        if self._pushed:
            # Only the last lines of the log are new. What a resume needs was pushed before.
            with suppress(OSError):
                self.push()
        shutil.rmtree(self.local.parent, ignore_errors=True)

    @property
    def basename(self) -> str:
        """The run's name: the last component of its folder."""
        return self.local.resolve().name

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run: every run writes config.yaml first."""
        with read_errors_as_input_errors(self.uri):
            return paths.exists(paths.join(self.uri, CONFIG_FILE))

    def lock(self) -> RunLock:
        """Let no other process write into the folder until `unlock`. Called before the first write.

        Of a folder in an object store it locks this process's copy only.

        Raises:
            InputError: another process holds the folder, it cannot be locked, a link leads out of
                it, or the run is new and the folder holds one already.
        """
        if self._lock is None:
            boundary.check_links(self.local)
            lock = RunLock(self.local)
            try:
                self.check_new()
            except InputError:
                lock.close()
                raise
            self._lock = lock
            self._is_new = False
        return self._lock

    def unlock(self) -> None:
        """Let other processes write into the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_new(self) -> None:
        """Raise InputError when the run is new and the folder holds a run already."""
        if not self._is_new:
            return
        if self.exists:
            raise InputError(
                f"--out {self} already holds a run; "
                f"continue it with --resume {self}, or choose another folder"
            )
        with read_errors_as_input_errors(self.uri):
            left = [name for name in RUN_FILES if paths.exists(paths.join(self.uri, name))]
        if left:
            raise InputError(
                f"--out {self} holds a run ({', '.join(left)}) but no {CONFIG_FILE}; put that file "
                f"back and continue with --resume {self}, or choose another folder"
            )

    def pull(self, *folders: str) -> None:
        """Copy to `local` what is new in the store since the last pull.

        A folder on this machine is only checked: nothing in it may lead out of it.

        Args:
            folders: folders of the run, such as "samples", with everything below them. "" means the
                run's own files without its folders, and is the default. The folder that is read
                first is written last: after `pull("", "samples")` every record in records.jsonl
                finds the sample images that it names.

        Raises:
            InputError: the store cannot be read, or a link or an object's name leads out of the
                folder.
        """
        if not self.remote:
            boundary.check_links(self.local)
            return
        with read_errors_as_input_errors(self.uri):
            new_files = [file for folder in folders or ("",) for file in self._read_new(folder)]
            for target, content, stamp in reversed(new_files):
                size = stamp[1]
                if len(content) != size and target in self._pulled:
                    # Replaced while it was read, so perhaps cut short: the next pull gets it whole.
                    continue
                partial = target.with_name(f"{target.name}.partial")
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(content)
                partial.replace(target)
                self._pushed[target] = _stamp(target)
                self._pulled[target] = stamp

    def _read_new(self, folder: str) -> list[tuple[Path, bytes, FileStamp]]:
        """The new files of one folder: their local path, content, and stamp in the store."""
        source = paths.join(self.uri, folder) if folder else self.uri
        target = self.local / folder
        found = paths.file_stats(source, recursive=bool(folder))
        boundary.check_object_names(found, source)
        new = [
            path
            for path, stamp in found.items()
            if not path.endswith(".partial") and self._pulled.get(target / path) != stamp
        ]
        with ThreadPoolExecutor(MAX_PARALLEL_READS) as readers:
            contents = list(readers.map(lambda path: _content(paths.join(source, path)), new))
        return [
            (target / path, content, found[path])
            for path, content in zip(new, contents, strict=True)
        ]

    def push(self) -> None:
        """Copy to the store what has changed in `local`.

        Files go in the order of their names, so records.jsonl comes before study.journal: records
        must show everything that the studies know.

        Raises:
            OSError: the store cannot be written.
        """
        if not self.remote:
            return
        for path in sorted(self.local.rglob("*")):
            if not path.is_file() or path.name.startswith(".") or path.name.endswith(NOT_PUSHED):
                continue
            stamp = _stamp(path)
            if self._pushed.get(path) == stamp:
                continue
            name = path.relative_to(self.local).as_posix()
            with paths.atomic_write(paths.join(self.uri, name)) as file:
                file.write(path.read_bytes())
            self._pushed[path] = stamp


def new_run_dir(out: str | None, stem: str) -> RunDir:
    """The folder of a new run: `--out`, or runs/STEM-TIME; of a Ray job in the user's home."""
    in_ray_job = RAY_JOB_WORKING_DIR in Path.cwd().as_posix()
    if out and in_ray_job and not paths.is_remote(out) and not os.path.isabs(out):
        raise InputError(
            f"--out {out} is in the job's working folder, which Ray deletes after the job; "
            "give an absolute path on a folder that all nodes share, or s3://bucket/path"
        )
    runs = Path.home() / "cid_ray" / "runs" if in_ray_job else Path("runs")
    return RunDir(out or runs / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}", is_new=True)


@contextmanager
def read_errors_as_input_errors(name: PathOrUri) -> Iterator[None]:
    """Raise an InputError for a store that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        # pyarrow raises ValueError for what cannot be a bucket's name.
        raise paths.unreadable(name, error) from None


def _checked(name: str) -> PathOrUri:
    if not paths.is_remote(name):
        return Path(name)
    if holds_secret("", name):
        raise InputError(
            "the name of the run folder holds a password or key; credentials and endpoint are "
            "taken from the environment (AWS_ACCESS_KEY_ID, ..., AWS_ENDPOINT_URL)"
        )
    try:
        return check_uri(name)
    except ValueError as error:
        raise InputError(f"the run folder {name!r} {error}") from None


def _content(name: PathOrUri) -> bytes:
    """A file's content. Reading fails when another process replaces the object meanwhile."""
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            with paths.open_read(name) as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == READ_ATTEMPTS:
                raise
            time.sleep(READ_PAUSE_S)
    raise AssertionError("unreachable")


def _stamp(path: Path) -> FileStamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
