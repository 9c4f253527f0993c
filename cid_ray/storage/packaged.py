"""Files that come with the project: search spaces, price list, Grafana dashboard, cluster files.

In the source tree they are in the top-level folders `search_spaces/` and `cluster/`, where users
read and edit them. A wheel holds copies of both folders in `cid_ray/packaged/`.
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.config import InputError

PACKAGE = Path(__file__).resolve().parent.parent


def packaged_file(name: str, folder: str) -> Path:
    """The path of a file that comes with the project.

    The working folder is searched first, so that a user's own copy wins; then the source tree, then
    the package.

    Args:
        name: the file's name, such as "demo.yaml".
        folder: its folder, such as "search_spaces" or "cluster/grafana".

    Raises:
        InputError: the file is in none of these places.
    """
    for root in (Path(), PACKAGE.parent, PACKAGE / "packaged"):
        path = root / folder / name
        if path.is_file():
            return path
    raise InputError(
        f"{folder}/{name} is neither in the working folder nor in the installed package; "
        "install cid_ray again"
    )
