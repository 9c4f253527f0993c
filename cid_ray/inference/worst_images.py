"""The images that a network predicts worst, as small pictures: image, label, prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cid_ray.data.band_image import as_rgb
from cid_ray.data.thumbnails import encode_thumbnail, overlay
from cid_ray.inference.evaluation import Evaluation

COUNT = 8


@dataclass(frozen=True)
class WorstImage:
    """One image; the pictures are JPEG."""

    image_id: str
    miou: float
    photo: bytes
    label: bytes  # the label on top of the image; grey stripes are ignored
    prediction: bytes


def draw_worst_images(evaluation: Evaluation, count: int = COUNT) -> list[WorstImage]:
    """Predict the images with the lowest mIoU again and draw them, the worst first.

    Args:
        evaluation: one that has run.
        count: number of images, at most.
    """
    network = evaluation.networks[0]
    colors = network.predictor.colors
    drawn = []
    for number in worst(network.scores.images, count):
        image, mask = evaluation.table.read(int(evaluation.rows[number]), mask=True)
        assert mask is not None
        truth = network.class_map.ids[mask]
        predicted, _ = network.predict(image, truth.shape)
        image = as_rgb(image)
        values = network.scores.images[number]
        pictures = [image, overlay(image, truth, colors), overlay(image, predicted, colors)]
        encoded = [encode_thumbnail(picture) for picture in pictures]
        drawn.append(WorstImage(values["id"], values["miou"], *encoded))
    return drawn


def worst(images: list[dict[str, Any]], count: int) -> list[int]:
    """The places of the images with the lowest mIoU; images without a label have none."""
    scored = [number for number, values in enumerate(images) if values["miou"] is not None]
    return sorted(scored, key=lambda number: float(images[number]["miou"]))[:count]
