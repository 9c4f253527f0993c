"""Fixtures of all tests: the session's one Ray cluster of 2 CPUs, tiny tables, runs that others
only read, and a small disk. And what may run at the same time: `pytest -n 3 --dist loadgroup`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.services import as_root, require_service, succeeds

# Threads of torch that wait for each other must sleep, not spin: several processes share two cores
# here. Three small trainings side by side take 19 s instead of 100, one alone 10 s instead of 9.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist: one process has all tests of Ray, one those of child processes, others files.

    Two clusters of 2 CPUs on 2 cores would starve each other.
    """
    for item in items:
        groups = (name for name in ("ray", "process") if item.get_closest_marker(name))
        item.add_marker(pytest.mark.xdist_group(next(groups, item.path.as_posix())))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Address of a local cluster with exactly 2 CPUs."""
    from cid_ray.resources.ray_session import RAY_ENVIRONMENT

    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    context = ray.init(
        address="local",
        num_cpus=2,
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=True,
    )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo set with few held-out images, so that evaluation is quick."""
    from cid_ray.data.synthetic import write_demo

    folder = tmp_path_factory.mktemp("small-demo")
    write_demo(folder, {"test": 6, "val": 4, "train": 48})
    return folder


@pytest.fixture(scope="session")
def halfway(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a search that runs: two baselines and one CID trial have finished, another is
    at its first rung. Read-only.
    """
    from tests.helpers.local_search import search_until, tiny_search

    out = tmp_path_factory.mktemp("at-work")
    search_until(out, tiny_search(small_demo), rungs=7)
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = as_root("mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "tmpfs", str(disk))
    require_service("tmpfs", succeeds(*mount))
    yield disk
    subprocess.run(as_root("umount", "-l", str(disk)), check=True)
