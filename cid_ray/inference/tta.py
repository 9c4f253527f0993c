"""Test-time augmentation: the mean over the predictions of an image, its mirror image, its scales.

Source: multi-scale and flip inference as in mmsegmentation's `tta_model`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from cid_ray.config import InputError

SCALES = (0.75, 1.0, 1.25)  # of `scales`


@dataclass(frozen=True)
class Tta:
    """Which views of an image are predicted.

    Example:
        >>> Tta.parse("flip,scales")
        Tta(scales=(0.75, 1.0, 1.25), flip=True)
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @classmethod
    def parse(cls, text: str) -> Tta:
        """The value of `--tta`: "flip", "scales", or both with a comma.

        Raises:
            InputError: for another word.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in ("flip", "scales"):
                raise InputError(f"--tta has {word!r}, must be flip, scales, or flip,scales")
        return cls(SCALES if "scales" in words else (1.0,), "flip" in words)

    def views(self, images: Tensor) -> list[Tensor]:
        """The views of images u8[B,C,H,W]: each scale, and its mirror image."""
        found = []
        for scale in self.scales:
            view = images if scale == 1 else _scaled(images, scale)
            found.append(view)
            if self.flip:
                found.append(view.flip(-1))
        return found

    def undo(self, predicted: Tensor, number: int) -> Tensor:
        """A view's prediction [B,K,H,W], at the image's own size, the right way round."""
        return predicted.flip(-1) if self.flip and number % 2 else predicted


NO_TTA = Tta()


def _scaled(images: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    resized = F.interpolate(
        images.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.round().clamp(0, 255).to(images.dtype)
