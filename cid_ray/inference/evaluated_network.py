"""One of the networks of an evaluation: does it fit the table, what does it predict."""

from __future__ import annotations

from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.core import iou
from cid_ray.data.table import Table
from cid_ray.inference.class_map import ClassMap, match_classes
from cid_ray.inference.predictor import Predictor
from cid_ray.inference.scores import Scores
from cid_ray.inference.tta import Tta


class EvaluatedNetwork:
    """A network and its scores.

    Args:
        predictor: of `load_model`.
        table: whose images are scored.
        tta: flips and scales over whose predictions the mean is taken.
        window: as of `evaluation.EvalOptions`.
        map_classes: of `class_map.match_classes`.

    Raises:
        InputError: its classes or channels do not fit the table.
    """

    def __init__(
        self,
        predictor: Predictor,
        table: Table,
        tta: Tta,
        window: int | None = None,
        map_classes: list[str] | None = None,
    ):
        _check_channels(predictor, table)
        self.predictor = predictor
        self.tta = tta
        if window is not None:
            predictor.window = window or None
        try:
            self.class_map: ClassMap = match_classes(table.classes, predictor.classes, map_classes)
        except InputError as error:
            raise InputError(
                f"table {table.folder}, checkpoint {predictor.checkpoint.path}: {error}"
            ) from None
        self.messages = predictor.describe()
        if self.class_map.message:
            self.messages.append(self.class_map.message)
        self.messages += _input_differences(predictor, table)
        self.scores = Scores(predictor.classes)

    def predict(self, image: Any, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Classes u8[H, W] and their probabilities f32[H, W]."""
        scores, are_probs = self.predictor.scores(image, (size[0], size[1]), self.tta)
        classes = scores.argmax(0).cpu().numpy().astype(np.uint8)
        confidence = iou.probabilities(scores[None], are_probs)[0].amax(0)
        return classes, confidence.cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """Where the network is from and how it predicts, as fields of the report."""
        predictor = self.predictor
        final = predictor.checkpoint.final
        return {
            "checkpoint": str(predictor.checkpoint.path),
            "run": final.get("run"),
            "network": predictor.network,
            "step": predictor.step,
            "model": f"{predictor.config.model.decoder} on {predictor.config.model.encoder}",
            "trained_on": predictor.data.table,
            "window": predictor.window,
            "image_size": predictor.config.data.image_size,
            "tta": {"flip": self.tta.flip, "scales": list(self.tta.scales)},
            "device": str(predictor.device),
        }


def _check_channels(predictor: Predictor, table: Table) -> None:
    if predictor.data.num_channels != table.num_channels:
        raise InputError(
            f"the images of {table.folder} have {table.num_channels} channels, the network of "
            f"{predictor.checkpoint.path} was trained on {predictor.data.num_channels}; import the "
            "images again with the bands of the training data, or name another table"
        )


def _input_differences(predictor: Predictor, table: Table) -> list[str]:
    """Warnings where the table's pixels were made in another way than those of training."""
    if not predictor.data.table:  # an older checkpoint: not known
        return []
    names = ("window", "bands", "band_windows")
    differing = [
        name
        for name in names
        if getattr(predictor.data, name) != getattr(table.model_data, name)
        and predictor.data.table != table.fingerprint
    ]
    return [
        f"warning: {name} of the table's import is not that of the training data, so pixels have "
        "other values"
        for name in differing
    ]
