"""A configuration that trains in seconds, for harnesses and tests."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "data": {
        "table": "demo",
        "ratio": "1/8",
        "crop_size": 32,
        "batch_size": 4,
        "batch_size_u": 4,
        "threads": 1,
    },
    "model": {
        "decoder": "fpn",
        "encoder": "test_efficientnet",
        "decoder_options": {
            "decoder_pyramid_channels": 32,
            "decoder_segmentation_channels": 32,
            "decoder_dropout": 0.0,
        },
    },
    "loss": {
        "conf_thresh": 0.3,
        "relation_weight": 1.0,
        "style_weight": 0.1,
        "relation_ramp": 0.0,
        "style_ramp": 0.0,
        "pseudo_ramp": 0.0,
    },
    "optim": {"name": "sgd", "lr": 0.01, "head_lr_mult": 1.0},
    "train": {"steps": 12, "rungs": [0.5, 1.0], "num_sample_images": 2},
}
