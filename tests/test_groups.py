"""The tests of Ray run one after the other, and a module's fixtures are made once.

Both rest on the groups of pytest-xdist. pytest 9.2 made its version 3.8 ignore them in silence: a
search that eight tests read ran three times.
"""

from __future__ import annotations

import pytest


def test_tests_are_in_groups_where_xdist_is_asked_for_them(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", False):
        pytest.skip("not run by pytest -n N --dist loadgroup")
    assert request.node.nodeid.endswith(f"@{request.path}")
