"""What a network says of each image of a pool, in a few hundred numbers: how unsure it is, which
classes it sees, and what the image looks like.

    N images   K classes   C channels of `feat`   H,W pixels
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cid_ray.data.band_image import Picture
from cid_ray.data.ingest.perceptual_hash import describe_looks
from cid_ray.inference.image_parts import MAX_WHOLE_PIXELS
from cid_ray.inference.predictor import Predictor


@dataclass(frozen=True)
class PoolScores:
    """The scores of N images.

    Attributes:
        uncertainty: f32[N], 0 to 1.
        fractions: f32[N, K], the part of an image that each class is expected to cover.
        features: f32[N, C], the mean of `feat` over an image.
        hashes: u8[N, 32], perceptual hashes.
    """

    uncertainty: np.ndarray
    fractions: np.ndarray
    features: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of_records(cls, records: Iterable[dict[str, Any]]) -> PoolScores:
        """Join the records of `score_image`."""
        found = list(records)
        return cls(
            np.array([one["uncertainty"] for one in found], np.float32),
            np.array([one["expected"] for one in found], np.float32),
            np.stack([_decode(one["feature"], np.float16) for one in found]).astype(np.float32),
            np.stack([_decode(one["hash"], np.uint8) for one in found]),
        )

    def take(self, indices: np.ndarray) -> PoolScores:
        """Some of the images, by their indices i64[n]."""
        return PoolScores(
            self.uncertainty[indices],
            self.fractions[indices],
            self.features[indices],
            self.hashes[indices],
        )


@torch.inference_mode()
def score_image(predictor: Predictor, picture: Picture) -> dict[str, Any]:
    """Score one image, as values for a line of JSON.

    The network sees the whole image, at `data.image_size` if the run has one. An image of more than
    2048 x 2048 pixels is reduced to that.

    Raises:
        InputError: the image is too small for the network.
    """
    small = _at_most(predictor, picture)
    with predictor.device.autocast():
        logits, feat = predictor.outputs(small)
    probs = logits[0, :, : small.height, : small.width].float().softmax(0)
    # The part of the canvas that shows the image.
    rows = math.ceil(feat.shape[-2] * small.height / logits.shape[-2])
    columns = math.ceil(feat.shape[-1] * small.width / logits.shape[-1])
    feature = feat[0, :, :rows, :columns].float().mean((1, 2))
    looks = describe_looks(np.asarray(picture))
    return {
        "uncertainty": round(image_uncertainty(probs), 6),
        "expected": [round(value, 6) for value in probs.mean((1, 2)).tolist()],
        "feature": _encode(feature.cpu().numpy().astype(np.float16)),
        "hash": _encode(np.frombuffer(looks.hash, np.uint8)),
    }


def image_uncertainty(probs: Tensor) -> float:
    """How unsure a network is of an image, 0 to 1.

    The mean entropy of the pixels of each predicted class, relative to log K; then the mean over
    the classes, weighted by the square root of their area. A sign of 1 % of the pixels counts a
    tenth of what a sky would that fills the image, not a hundredth.

    Args:
        probs: f32[K, H, W].

    Example:
        >>> image_uncertainty(torch.full((4, 8, 8), 0.25))
        1.0
    """
    num_classes = len(probs)
    entropy = torch.special.entr(probs).sum(0).flatten() / math.log(max(2, num_classes))
    classes = probs.argmax(0).flatten()
    pixels = torch.bincount(classes, minlength=num_classes).float()
    sums = torch.bincount(classes, weights=entropy, minlength=num_classes)
    weights = pixels.sqrt()
    mean = sums / pixels.clamp(min=1)
    return float((weights * mean).sum() / weights.sum())


def _at_most(predictor: Predictor, picture: Picture) -> Picture:
    if predictor.config.data.image_size:
        height, width = predictor.config.data.image_size
    else:
        factor = math.sqrt(MAX_WHOLE_PIXELS / (picture.width * picture.height))
        if factor >= 1:
            return picture
        height, width = int(picture.height * factor), int(picture.width * factor)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _encode(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _decode(text: str, kind: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)
