"""What many tests share: a configuration that trains in seconds, and where real data lies."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

TINY: dict[str, Any] = {
    "data": {"table": "demo", "ratio": "1/8", "crop_size": 32, "batch_size": 4, "batch_size_u": 4, "threads": 1},
    "model": {
        "decoder": "fpn",
        "encoder": "test_efficientnet",
        "decoder_options": {
            "decoder_pyramid_channels": 32,
            "decoder_segmentation_channels": 32,
            "decoder_dropout": 0.0,
        },
    },
    "loss": {"conf_thresh": 0.3, "style_weight": 0.1, "relation_ramp": 0.0, "style_ramp": 0.0, "pseudo_ramp": 0.0},
    "optim": {"name": "sgd", "lr": 0.01, "head_lr_mult": 1.0},
    "train": {"steps": 12, "rungs": [0.5, 1.0], "samples": 2},
}


def real_data(*parts: str) -> Path:
    """A folder or file of real data below CID_RAY_DATA; the test is skipped, with the reason, where there is none."""
    root = os.environ.get("CID_RAY_DATA")
    if not root:
        pytest.skip("CID_RAY_DATA is not set: no real data here")
    path = Path(root).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def from_ray_dashboard(path: str) -> Any:
    """What Ray's own dashboard, of the cluster that this process is part of, answers."""
    import ray

    token = Path("~/.ray/auth_token").expanduser()
    head = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.is_file() else {}
    request = urllib.request.Request(f"http://{ray._private.worker._global_node.webui_url}{path}", headers=head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
