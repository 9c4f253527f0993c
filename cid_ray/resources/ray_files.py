"""Ray's folder on this machine: where it is, and whether a Ray can start in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cid_ray.config import InputError
from cid_ray.storage.user_dirs import check_writable

MAX_SOCKET_NAME = 107 if sys.platform == "linux" else 103  # bytes of sun_path without the last zero
# The longest name that Ray makes below its folder, with the largest process id of Linux.
LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
REMEDY = "name a short folder of your own in RAY_TMPDIR, such as /tmp/me"


def ray_temp_dir() -> str:
    """The folder of Ray's sessions, chosen in the order in which `ray start` itself does."""
    system = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return os.path.join(system, "ray")


def check_ray_temp_dir(folder: Path) -> None:
    """Raise InputError when no Ray can start with this folder.

    Args:
        folder: of Ray's sessions. It need not exist.
    """
    length = len(os.fsencode(folder / LONGEST_SOCKET))
    if length > MAX_SOCKET_NAME:
        raise InputError(
            f"{folder} is {length - MAX_SOCKET_NAME} characters too long for the names of Ray's "
            f"sockets; {REMEDY}"
        )
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        check_writable(existing)
    except OSError as error:
        owner = "" if existing.stat().st_uid == os.getuid() else ", it belongs to another user"
        raise InputError(
            f"{existing} cannot be written ({error.strerror}{owner}); {REMEDY}"
        ) from None
