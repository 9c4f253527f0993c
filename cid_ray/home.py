"""A run's folder: where everybody finds it (`name`), and where this process keeps its own files of it (`here`).

On a file system these are the same. With `--out s3://bucket/runs/mine`, rows, journal, log and page are written in a
temporary folder and sent to the store at every event that a resume must know of; checkpoints and pictures, which other
nodes write, go there at once. What the store holds is the truth: a resume begins with it.
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

from cid_ray import places
from cid_ray.config import InputError
from cid_ray.places import Name
from cid_ray.rules import place

READERS = 8  # objects that are read at the same time: a small one is mostly waited for
OF_A_JOB = "runtime_resources/working_dir_files"  # Ray removes what lies there some time after the job


class Home:
    def __init__(self, name: Name):
        self.name = _checked(str(name))
        self.remote = places.is_remote(self.name)
        self.here = Path(self.name)
        if self.remote:
            self.here = Path(tempfile.mkdtemp(prefix="cid_ray-"), str(self.name).rstrip("/").rpartition("/")[2])
        self.lost = 0.0  # since when its store cannot be read (seconds since 1970), if somebody follows it
        self._sent: dict[Path, tuple[int, int]] = {}  # as they lay here
        self._fetched: dict[Path, tuple[int, int]] = {}  # as they lay in the store

    def __str__(self) -> str:
        return str(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.remote:
            if self._sent:
                with suppress(OSError):  # the last lines of the log; what must not be lost was sent before
                    self.send()
            shutil.rmtree(self.here.parent, ignore_errors=True)

    @property
    def own_name(self) -> str:
        return self.here.resolve().name

    @property
    def holds_run(self) -> bool:
        with readable(self.name):
            return places.exists(places.join(self.name, "config.yaml"))

    def fetch(self, *folders: str) -> None:
        """Bring here what is new in the store since the last time: all that lies in these folders of the run.

        "", which is meant when none is named, stands for the run's own files without its folders. What is read first
        takes its place last: with `fetch("", "samples")` a row is here once the pictures are that it names.
        """
        if not self.remote:
            return
        with readable(self.name):
            new = [file for folder in folders or ("",) for file in self._read(folder)]
            for target, content, stamp in reversed(new):
                if len(content) != stamp[1] and target in self._fetched:
                    continue  # written anew while it was read, perhaps cut short: the next time it is whole
                partial = target.with_name(f"{target.name}.partial")
                target.parent.mkdir(parents=True, exist_ok=True)
                partial.write_bytes(content)
                partial.replace(target)
                self._sent[target], self._fetched[target] = _state(target), stamp

    def _read(self, folder: str) -> list[tuple[Path, bytes, tuple[int, int]]]:
        """What is new in one folder: where it belongs here, its content, and its stamp in the store."""
        source, target = places.join(self.name, folder) if folder else self.name, self.here / folder
        found = places.stamps(source, below=bool(folder))
        new = [p for p in found if not p.endswith(".partial") and self._fetched.get(target / p) != found[p]]
        with ThreadPoolExecutor(READERS) as readers:
            contents = readers.map(lambda path: _content(places.join(source, path)), new)
            return [(target / path, content, found[path]) for path, content in zip(new, contents, strict=True)]

    def send(self) -> None:
        """Put into the store what has changed here, the rows before the journal: what a study knows, rows must show.

        Raises:
            OSError: the store cannot be written.
        """
        if not self.remote:
            return
        for path in sorted(p for p in self.here.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if path.name.endswith((".lock", ".partial")) or self._sent.get(path) == (state := _state(path)):
                continue
            with places.writing(places.join(self.name, path.relative_to(self.here).as_posix())) as file:
                file.write(path.read_bytes())
            self._sent[path] = state


@contextmanager
def readable(name: Name) -> Iterator[None]:
    """An InputError for what a store does not let us read."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: no name of a bucket
        raise InputError(f"{name} cannot be read ({places.reason(error)}); {places.STORE_REMEDY}") from None


def new_home(out: str | None, stem: str) -> Home:
    """The folder of a new run: `--out`, or runs/STEM-TIME here; of a submitted job in the user's home."""
    in_job = OF_A_JOB in Path.cwd().as_posix()
    if out and in_job and not places.is_remote(out) and not os.path.isabs(out):
        raise InputError(
            f"--out {out} lies in the job's working folder, which Ray removes after it; give an absolute path on a "
            "folder that all nodes share, or s3://bucket/path"
        )
    runs = Path.home() / "cid_ray" / "runs" if in_job else Path("runs")
    return Home(out or runs / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")


def _checked(name: str) -> Name:
    try:
        return place(name) if "://" in name else Path(name)
    except ValueError as error:
        raise InputError(f"the run's folder {name!r} {error}") from None


def _content(name: Name) -> bytes:
    with places.reading(name) as file:
        return file.read()


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
