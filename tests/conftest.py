"""The session's one Ray cluster of 2 CPUs, folders of tiny tables, a small disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A local cluster with exactly 2 CPUs; its address. Shut down by its own driver at the end."""
    import os

    from cid_ray.run.cluster import ENVIRONMENT

    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    import ray

    context = ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=True)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo set with few held-out images, so that evaluation takes no time."""
    from cid_ray.data.demo import write_demo

    folder = tmp_path_factory.mktemp("small-demo")
    write_demo(folder, {"test": 6, "val": 4, "train": 48})
    return folder


@pytest.fixture(scope="session")
def halfway(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search at work: two baselines, one CID trial, and half of another. Look, and do not touch."""
    from tests.searching import search_until, tiny_search

    out = tmp_path_factory.mktemp("at-work")
    search_until(out, tiny_search(small_demo), rungs=7)
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
