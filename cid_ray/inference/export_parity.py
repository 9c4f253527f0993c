"""Does an exported file say what the network says? It is run on the same images and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cid_ray.config import InputError
from cid_ray.core.model import Segmenter
from cid_ray.data.sources import open_table
from cid_ray.inference.export_formats import Runner
from cid_ray.inference.predictor import Predictor

# Of logits: times the largest logit, at least 1. Of confidence: as it is. Torch itself differs by
# 3e-5 with another memory layout (fpn, whose group norm adds up all pixels); what is wrong at
# another size was 1e-1.
TOLERANCE = 1e-3
NUM_REAL_IMAGES = 2


@dataclass(frozen=True)
class Parity:
    """The largest differences over some images.

    Attributes:
        images: what it was measured on.
        logits: largest difference of a logit, as a fraction of the largest; None of output "ids".
        confidence: largest difference of a confidence; None of output "logits".
        differing_ids: largest fraction of the pixels whose class is another.
        margin: of these, the largest difference of the network's logits of both classes, as a
            fraction of the largest logit: 0 is a tie.
    """

    images: str
    logits: float | None
    confidence: float | None
    differing_ids: float
    margin: float

    @property
    def is_within_tolerance(self) -> bool:
        # A NaN is in no tolerance.
        found = (self.logits or 0.0, self.confidence or 0.0, self.margin / 2)
        return all(value <= TOLERANCE for value in found)

    def describe(self) -> str:
        """One line for a person."""
        name, value = ("logits", self.logits)
        if value is None:
            name, value = ("confidence", self.confidence)
        return (
            f"largest difference of {name} {value:.1e} (tolerance {TOLERANCE:g}), class ids differ "
            f"in {100 * self.differing_ids:.4f} % of the pixels; on {self.images}"
        )

    def merge(self, other: Parity) -> Parity:
        """The larger of each."""

        def largest(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else float(np.maximum(a, b))

        return Parity(
            f"{self.images}, {other.images}",
            largest(self.logits, other.logits),
            largest(self.confidence, other.confidence),
            max(self.differing_ids, other.differing_ids),
            float(np.maximum(self.margin, other.margin)),
        )


@torch.no_grad()
def compare(net: Segmenter, run: Runner, images: Tensor, name: str) -> Parity:
    """Compare a file with the network.

    Args:
        net: the network that was exported.
        run: the exported file.
        images: u8[B,C,H,W].
        name: what they are, for the message.
    """
    expected = net(images.to(net.mean.device))[0].float().cpu()
    found = [torch.from_numpy(part) for part in run(images.numpy())]
    scale = max(1.0, float(expected.abs().max()))
    logits = confidence = None
    if len(found) == 1:
        check_shape(found[0], expected)
        logits = float((found[0] - expected).abs().max()) / scale
        ids = found[0].argmax(1)
    else:
        highest = expected.softmax(1).amax(1)
        ids = found[0].long()
        check_shape(ids, highest)
        confidence = float((found[1] - highest).abs().max())
    margins = expected.amax(1) - expected.gather(1, ids[:, None])[:, 0]
    differing = ids != expected.argmax(1)
    return Parity(
        name,
        logits,
        confidence,
        float(differing.float().mean()),
        float((margins * differing).max()) / scale,
    )


def check_shape(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ValueError(
            f"the output has shape {list(found.shape)}, must have {list(expected.shape)}"
        )


def other_size(size: tuple[int, int]) -> tuple[int, int]:
    """A second size, of another shape and no multiple of 32."""
    return size[0] * 5 // 4 + 3, size[1] * 9 // 8 + 5


def random_images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """u8[batch, channels, *size], the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, *size), generator=generator, dtype=torch.uint8)


def parity_images(
    predictor: Predictor, sizes: list[tuple[int, int]], batches: list[int], real: Tensor | None
) -> Iterator[tuple[Tensor, str]]:
    """Images and what they are: random ones of each size and batch, then real ones if there are."""
    for size in sizes:
        for batch in batches:
            images = random_images(batch, predictor.net.in_channels, size)
            yield images, f"{batch} random of {size[0]}x{size[1]}"
    if real is not None:
        for part in real.split(max(batches)):
            if len(part) in batches:
                yield part, f"{len(part)} of {predictor.config.data.table}"


def real_images(predictor: Predictor, size: tuple[int, int]) -> Tensor | None:
    """The first val images of the training table u8[B,C,*size]; None when it is not there."""
    try:
        table = open_table(predictor.config.data.table)
        if not predictor.data.table or table.fingerprint != predictor.data.table:
            return None
        rows = table.rows("val")[:NUM_REAL_IMAGES].tolist()
        pictures = [table.read(row, mask=False)[0] for row in rows]
    except (InputError, OSError):
        return None
    resized = [p.resize((size[1], size[0]), Image.Resampling.BILINEAR) for p in pictures]
    if not resized:
        return None
    return torch.from_numpy(np.stack([np.array(p) for p in resized])).permute(0, 3, 1, 2)
