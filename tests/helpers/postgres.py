"""A real PostgreSQL server on this machine, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.ports import free_port, wait_until
from tests.helpers.services import require_service

USER = "searcher"
PASSWORD = "hidden-word"
# Debian keeps the server's programs off the PATH.
DEBIAN_FOLDERS = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]


@contextmanager
def serving() -> Iterator[tuple[str, dict[str, str], subprocess.Popen[bytes]]]:
    """Run a server with an empty database.

    Yields:
        The database's URL, the environment with user and password, and the server's process.
    """
    initdb = find_program("initdb")
    postgres = find_program("postgres")
    # The server refuses to run as root.
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": "nobody", "group": "nogroup"}
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    if account:
        for path in (folder, password_file):
            shutil.chown(path, **account)
    options: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": folder,
        **account,
    }
    data = str(folder / "data")
    create = [initdb, "-D", data, "-U", USER, f"--pwfile={password_file}", "-E", "UTF8"]
    subprocess.run([*create, "--auth=scram-sha-256"], check=True, **options)
    port = free_port()
    command = [postgres, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen(command, **options)
    try:
        wait_until(lambda: _accepts_logins(port, server), 60)
        env = {"PGUSER": USER, "PGPASSWORD": PASSWORD}
        yield f"postgresql+psycopg://127.0.0.1:{port}/postgres", env, server
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def find_program(name: str) -> str:
    """The path of one of the server's programs; the test is skipped where there is none."""
    path = os.pathsep.join([*DEBIAN_FOLDERS, os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    require_service(name, found)
    assert found is not None
    return found


def _accepts_logins(port: int, server: subprocess.Popen[bytes]) -> bool:
    import psycopg

    assert server.poll() is None, "the server has ended"
    login: dict[str, Any] = {
        "host": "127.0.0.1",
        "user": USER,
        "password": PASSWORD,
        "dbname": "postgres",
    }
    try:
        psycopg.connect(**login, port=port).close()
    except psycopg.OperationalError:
        return False
    return True
