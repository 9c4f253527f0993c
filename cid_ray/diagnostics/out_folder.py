"""`--out`: whether a run can be written there. No file is left in it.

In a store pyarrow leaves an empty object in the name of a folder, as for every run.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from cid_ray.config import InputError, error_summary
from cid_ray.diagnostics.machine import check_free_space
from cid_ray.storage import paths
from cid_ray.storage.lock import RunLock
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir

CONTENT = os.urandom(1 << 20)  # small, and more than file systems keep in their metadata
PROBE = "cid_ray-doctor"
ENDPOINT_TIMEOUT_S = 5.0


def check_out(out: str) -> str:
    """Whether files can be written, read back, locked (of a folder) and removed.

    Args:
        out: a folder, which need not exist, or `s3://bucket/path`.
    """
    if paths.is_remote(out):
        return check_store(RunDir(out).uri)
    return check_folder(Path(out).absolute())


def check_folder(folder: Path) -> str:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{existing} is a file; choose --out in a folder")
    try:
        probe = Path(tempfile.mkdtemp(prefix=f".{PROBE}-", dir=existing))
    except OSError as error:
        raise InputError(
            f"{existing} cannot be written ({error.strerror}); choose another --out"
        ) from None
    try:
        check_locks(probe)
        check_files(probe / "probe")
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    free = check_free_space(existing, "remove old runs, or choose --out on another disk")
    return f"{folder}, files and locks work, {free}"


def check_locks(folder: Path) -> None:
    """Raise InputError unless one lock on a folder keeps a second one out."""
    with RunLock(folder):
        try:
            RunLock(folder).close()
        except InputError:
            return
    raise InputError(
        f"locks in {folder.parent} have no effect: two processes could write into one run; choose "
        "--out on a local disk or s3://bucket/path, or mount the file system with locks"
    )


def check_files(name: PathOrUri) -> None:
    """Raise InputError unless a file can be written, replaced, read back and removed."""
    try:
        for content in (b"first", CONTENT):
            with paths.atomic_write(name) as file:
                file.write(content)
        with paths.open_read(name) as file:
            found = file.read()
        if found != CONTENT:
            raise InputError(f"{name} was read back with another content")
    except OSError as error:
        raise InputError(_reason(name, error)) from None
    finally:
        paths.remove(name)
    if paths.exists(name):
        raise InputError(f"{name} cannot be removed again; give the right to delete objects")


def _reason(name: PathOrUri, error: OSError) -> str:
    if paths.is_remote(name):
        return str(paths.unwritable(name, error))
    return f"{name} cannot be written ({error.strerror or error_summary(error)})"


def check_store(uri: PathOrUri) -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = check_endpoint(named) if named else "AWS"
    check_files(paths.join(uri, f"{PROBE}-{uuid.uuid4().hex}"))
    return f"{uri} at {endpoint}: objects are written, read and removed; a store has no locks"


def check_endpoint(url: str) -> str:
    """The endpoint without what else the URL may hold, such as a password.

    Raises:
        InputError: nothing answers there. pyarrow would try for about 20 seconds.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        host = None
    if not host:
        raise InputError("AWS_ENDPOINT_URL must be http://host:port or https://host")
    endpoint = f"{parts.scheme}://{host}:{port}"
    try:
        socket.create_connection((host, port), ENDPOINT_TIMEOUT_S).close()
    except OSError as error:
        raise InputError(
            f"nothing answers at {endpoint} ({error_summary(error)}); correct AWS_ENDPOINT_URL, or "
            "start the server"
        ) from None
    return endpoint
