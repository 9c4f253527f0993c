"""A real PostgreSQL server on this machine, in a folder of its own, for as long as tests need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import free_port

FOLDERS = [str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]  # Debian keeps them off the PATH
USER, PASSWORD = "searcher", "hidden-word"


def program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([*FOLDERS, os.environ.get("PATH", "")]))
    if not found:
        pytest.skip(f"{name} is not here: install Debian's postgresql")
    return found


@contextmanager
def serving() -> Iterator[tuple[str, dict[str, str], subprocess.Popen[bytes]]]:
    """The URL of an empty database, the environment with user and password, and the server's process."""
    initdb, postgres = program("initdb"), program("postgres")
    other: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}  # it refuses root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    word = folder / "word"
    word.write_text(PASSWORD)
    if other:
        for path in (folder, word):
            shutil.chown(path, **other)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **other}
    making = [initdb, "-D", str(folder / "data"), "-U", USER, f"--pwfile={word}", "--auth=scram-sha-256", "-E", "UTF8"]
    subprocess.run(making, check=True, **quiet)
    port = free_port()
    command = [postgres, "-D", str(folder / "data"), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen(command, **quiet)
    env = {"PGUSER": USER, "PGPASSWORD": PASSWORD}
    try:
        wait_until_it_answers(port, server)
        yield f"postgresql+psycopg://127.0.0.1:{port}/postgres", env, server
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(port: int, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
