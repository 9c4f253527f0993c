"""A simulated search that has just been opened; a PostgreSQL server for shared studies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.search.controller import Search
from tests.helpers.postgres import serving
from tests.helpers.simulated_studies import open_search, search_config


@pytest.fixture(scope="package")
def database() -> Iterator[str]:
    """The URL of its database; user and password are in the environment."""
    with serving() as (url, env, _), pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    """Two ratios, three baselines and three CID trials at each; no trial has started."""
    with open_search(tmp_path, search_config(trials=3)) as search:
        yield search
