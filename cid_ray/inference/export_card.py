"""The model card of an exported file: what it takes, what it answers, where it comes from."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm

from cid_ray.inference.export_graph import INPUT_NAME, OUTPUTS, Output
from cid_ray.inference.export_weights import normalization
from cid_ray.inference.predictor import Predictor
from cid_ray.results.provenance import provenance

EXPORT_PACKAGES = ("onnx", "onnxruntime", "safetensors")


def make_card(predictor: Predictor, output: Output, **fields: Any) -> dict[str, Any]:
    """The card of a network as plain values.

    Args:
        predictor: the network.
        output: "ids" or "logits".
        fields: format, opset, size, dynamic axes and parity of the file.

    Example:
        >>> make_card(predictor, "ids", format="onnx")["classes"]
        ['sky', 'road']
    """
    model = predictor.config.model
    return {
        **fields,
        "classes": predictor.classes,
        "colors": predictor.colors,
        "input": input_card(predictor),
        "outputs": OUTPUTS[output],
        "network": predictor.network,
        "step": predictor.step,
        "encoder": model.encoder,
        "decoder": model.decoder,
        "decoder_options": model.decoder_options,
        "encoder_weights": weights_card(model.encoder, predictor.weights),
        "scores": scores_card(predictor),
        "data": {"fingerprint": predictor.data.table, "ratio": predictor.config.data.ratio},
        **versions(),
    }


def input_card(predictor: Predictor) -> dict[str, Any]:
    """What an image must be. `image_size` and `sliding_window` are how the scores were measured."""
    data = predictor.data
    is_picture = data.num_channels == 3 and data.bands is None
    return {
        "name": INPUT_NAME,
        "form": "uint8[B, C, H, W]",
        "channels": data.num_channels,
        "order": "red, green, blue" if is_picture else "as the bands of the training data",
        "range": [0, 255],
        "window": data.window.model_dump() if data.window else None,
        "bands": data.bands,
        "band_windows": data.band_windows,
        **normalization(predictor),
        "image_size": predictor.config.data.image_size,
        "sliding_window": predictor.config.train.sliding_window,
    }


def weights_card(encoder: str, weights: str) -> dict[str, Any]:
    """Where the encoder's first weights come from, and their licence if timm knows it."""
    if weights == "none":
        return {"source": "trained from random weights", "license": None}
    if weights != "pretrained":
        # The folder is of the machine that trained it.
        return {"source": f"trained from the file {Path(weights).name}", "license": None}
    published: Any = timm.get_pretrained_cfg(encoder, allow_unregistered=True)
    tag = published.tag if published else ""
    name = encoder if not tag or "." in encoder else f"{encoder}.{tag}"
    return {
        "source": f"trained from timm's {name}",
        "license": (published.license if published else None) or "not known to timm",
    }


def scores_card(predictor: Predictor) -> dict[str, Any] | None:
    """mIoU in percent of this network in its run; None for a checkpoint that no run is known of."""
    final = predictor.checkpoint.final
    if not final:
        return None
    suffix = "_teacher" if predictor.network == "teacher" else ""
    # The noise is that of the network whose scores the search compared.
    is_compared = predictor.config.search.metric == f"val/miou{suffix}"
    names = ("run", "method", "ratio_name", "label_count", "step", "test_split", "test_is_val")
    return {
        **{name: final.get(name) for name in names},
        "val_miou": final.get(f"val/miou{suffix}"),
        "test_miou": final.get(f"test/miou{suffix}"),
        "test_iou": final.get(f"test/iou{suffix}"),
        "noise_floor": predictor.checkpoint.noise_floor if is_compared else None,
    }


def versions() -> dict[str, Any]:
    """Commit and versions of this process, with those of the packages of `export`."""
    known = provenance()
    found = dict(known["versions"])
    for name in EXPORT_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"git": known["git"], "python": known["python"], "versions": found}


def file_fields(out: Any, content: bytes) -> dict[str, Any]:
    """Name, size and checksum of the file that a card is of."""
    return {
        "file": os.path.basename(str(out)),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
