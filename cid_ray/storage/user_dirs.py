"""Where files of this user go that belong to no run: caches, Ray's token, fonts of matplotlib.

A container with a random user id has no home folder, or one that it cannot write. Then these files
go into a folder of this user in the temporary folder. `ensure_home` names it to every library by
environment variables, which child processes inherit.
"""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from cid_ray.config import InputError, error_summary


def private_temp_dir() -> Path:
    """This user's own folder in the machine's temporary folder, made on first use.

    Raises:
        OSError: it cannot be made, or it is not this user's alone. Another user could put files
            into it.
    """
    folder = Path(tempfile.gettempdir()) / f"cid_ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_private = found.st_uid == os.getuid() and not found.st_mode & 0o077
    if not stat.S_ISDIR(found.st_mode) or not is_private:
        raise PermissionError(
            f"{folder} must be a folder that belongs to this user and that nobody else may enter"
        )
    return folder


def cache_dir() -> Path:
    """The cache folder of cid_ray, made on first use: of XDG_CACHE_HOME, home, or temporary.

    Raises:
        InputError: no folder of these can be written.
    """
    reasons = []
    for parent in (_xdg_cache, _home_cache, private_temp_dir):
        try:
            folder = parent() / "cid_ray"
            folder.mkdir(parents=True, exist_ok=True)
            check_writable(folder)
        except OSError as error:
            reasons.append(error_summary(error))
        else:
            return folder
    raise InputError(
        f"there is no folder for cached files ({'; '.join(reasons)}); "
        "let XDG_CACHE_HOME name a folder that can be written"
    )


def _xdg_cache() -> Path:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    raise FileNotFoundError("XDG_CACHE_HOME is not set")


def _home_cache() -> Path:
    home = home_dir()
    if home is None or not home.is_dir():  # not made: HOME is a mistake then
        raise FileNotFoundError(home_problem(home))
    return home / ".cache"


def home_dir() -> Path | None:
    """The home folder by HOME or by the user's entry, which may not exist; None without either."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def check_writable(folder: Path) -> None:
    """Raise OSError unless a file can be made in the folder. Nothing is left in it."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def ensure_home() -> str:
    """Give this process and its children folders that can be written where the home folder cannot.

    Returns:
        What was wrong and what is used instead; "" when nothing was changed.
    """
    home = home_dir()
    problem = home_problem(home)
    if not problem:
        return ""
    try:
        folder = private_temp_dir()
        if home is None or not home.is_dir():
            os.environ["HOME"] = str(folder)
        else:
            _write_elsewhere(home, folder)
    except OSError as error:
        return f"{problem}, and nothing can be written instead of it: {error_summary(error)}"
    if not _has_user_name():
        os.environ["USER"] = str(os.getuid())  # torch asks getpass for it
    return f"{problem}; caches of this user go to {folder}"


def home_problem(home: Path | None) -> str:
    """Why the home folder cannot hold this user's files; "" when it can."""
    if home is None:
        return "HOME is not set and this user has no entry with a home folder"
    if not home.is_dir():
        return f"the home folder {home} does not exist"
    try:
        check_writable(home)
    except OSError as error:
        return f"the home folder {home} cannot be written ({error.strerror})"
    return ""


def _write_elsewhere(home: Path, folder: Path) -> None:
    """Name folders to write for libraries, and leave HOME: ~/.aws and others are read there."""
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    os.environ.setdefault("TRITON_HOME", str(folder))  # kernels of torch.compile
    if "XDG_CACHE_HOME" not in os.environ:
        if (home / ".cache" / "huggingface").is_dir():  # filled when the image was built
            os.environ.setdefault("HF_HOME", str(home / ".cache" / "huggingface"))
        os.environ["XDG_CACHE_HOME"] = str(folder)
    # `ray.init` writes a token into the home folder when there is none.
    token = folder / "ray_auth_token"
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if named or (home / ".ray" / "auth_token").exists():
        return
    with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        with suppress(FileExistsError):  # a link is made whole: nobody reads half a token
            os.link(file.name, token)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def _has_user_name() -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwuid(os.getuid()))
    return any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME"))
