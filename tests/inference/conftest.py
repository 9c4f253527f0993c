"""Small trained runs that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cid_ray.train import main as train
from tests.helpers.tiny_run import TINY


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `train`."""
    import yaml

    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    assert train(["--config", str(config), "--out", str(folder / "run"), "-q"]) == 0
    return folder / "run"
