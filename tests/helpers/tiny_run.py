"""What many tests share: a configuration that trains in seconds, real data, Ray's dashboard."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.tiny_run import TINY
from cid_ray.data.input_spec import ModelData

__all__ = ["ONE_CLASS", "SMALL_DPT", "TINY", "TINY_VIT", "from_ray_dashboard", "real_data"]

ONE_CLASS = ModelData(classes=["a"], colors=[[0, 0, 0]])
# Options of a DPT decoder that trains in seconds, and the model keys of a ViT with it.
SMALL_DPT = {"decoder_intermediate_channels": [16, 16, 16, 16], "decoder_fusion_channels": 16}
TINY_VIT = {
    "model.encoder": "test_vit",
    "model.decoder": "dpt",
    "model.decoder_options": SMALL_DPT,
}


def real_data(*parts: str) -> Path:
    """A folder or file of real data below CID_RAY_DATA. Without it the test is skipped."""
    root = os.environ.get("CID_RAY_DATA")
    if not root:
        pytest.skip("CID_RAY_DATA is not set: no real data here")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def from_ray_dashboard(path: str) -> Any:
    """The answer of the dashboard of the Ray cluster that this process is connected to."""
    import ray

    token = Path("~/.ray/auth_token").expanduser()
    headers = {}
    if token.is_file():
        headers["Authorization"] = f"Bearer {token.read_text().strip()}"
    address = ray._private.worker._global_node.webui_url
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
