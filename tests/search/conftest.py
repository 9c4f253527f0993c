"""A PostgreSQL server for the tests of shared studies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import serving


@pytest.fixture(scope="package")
def database() -> Iterator[str]:
    """The URL of its database; user and password are in the environment."""
    with serving() as (url, env, _), pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield url
