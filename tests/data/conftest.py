"""Real CamVid as a table, imported once per session."""

from __future__ import annotations

import pytest

from cid_ray import prepare
from cid_ray.data.table import Table
from tests.helpers.tiny_run import real_data


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Table:
    out = tmp_path_factory.mktemp("camvid") / "table"
    prepare.main(["camvid", str(real_data("camvid")), "--out", str(out)])
    return Table(out)
