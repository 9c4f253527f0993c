"""Files that come with the project: search spaces, price list, Grafana dashboard, cluster files.

In the source tree they are in the top-level folders `search_spaces/` and `cluster/`, where users
read and edit them. A wheel holds copies of both folders in `cid_ray/packaged/`.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from cid_ray.config import InputError

PACKAGE = Path(__file__).resolve().parent.parent
NO_CLUSTER = ("prices", "kuberay-base")  # YAML files in cluster/ that describe no whole cluster


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
    for root in _roots():
        path = root / folder / name
        if path.is_file():
            return path
    raise InputError(
        f"{folder}/{name} is neither in the working folder nor in the installed package; "
        "install cid_ray again"
    )


def named_file(name: str | Path, folder: str) -> Path:
    """The YAML file that an option names: a path, or the bare name of a packaged one.

    Args:
        name: with a separator or a suffix it is a path. `demo` is `demo.yaml` of the folder.
        folder: "search_spaces" or "cluster".

    Raises:
        InputError: there is no such packaged file, or the path does not exist and there is one.

    Example:
        >>> named_file("demo", "search_spaces").name
        'demo.yaml'
    """
    path = Path(name)
    known = packaged_names(folder)
    listed = f"those that come with cid_ray are {', '.join(known)}"
    if path.suffix or len(path.parts) != 1 or str(name).endswith("/") or str(name)[:2] == "./":
        if not path.exists() and path.suffix == ".yaml" and path.stem in known:
            raise InputError(
                f"{name} does not exist in the working folder; write `{path.stem}` without folder "
                f"and suffix for the one that comes with cid_ray"
            )
        return path
    if path.name in known:
        return packaged_file(f"{path.name}.yaml", folder)
    if path.is_file():
        raise InputError(f"for the file {name} write ./{name}; bare names: {listed}")
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"there is no {folder}/{name}.yaml{hint}; {listed}")


def packaged_names(folder: str) -> list[str]:
    """The bare names of the YAML files in `search_spaces` or `cluster`."""
    files = {file.stem for root in _roots() for file in (root / folder).glob("*.yaml")}
    return sorted(files - set(NO_CLUSTER))


def _roots() -> tuple[Path, ...]:
    return (Path(), PACKAGE.parent, PACKAGE / "packaged")
