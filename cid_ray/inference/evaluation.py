"""`Evaluation`: a trained network, or two of them, scored on the labeled images of a table.

Predictions are those of training: `Predictor.scores` at the size of the mask. So mIoU is, to the
last digit, the number that `train` and `tune` recorded. Images are read, predicted and forgotten
one by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cid_ray.config import InputError
from cid_ray.data.splits import make_split, masked_rows
from cid_ray.data.table import Table
from cid_ray.inference.bootstrap import paired_bootstrap
from cid_ray.inference.evaluated_network import EvaluatedNetwork
from cid_ray.inference.predictor import Predictor
from cid_ray.inference.tta import NO_TTA, Tta
from cid_ray.results.provenance import provenance

SPLITS = ("val", "test")
MIN_WINDOW = 32  # as of train.sliding_window


@dataclass(frozen=True)
class EvalOptions:
    """What is evaluated and how.

    Attributes:
        split: "val" or "test".
        tta: flips and scales over whose predictions the mean is taken.
        window: side of the sliding window in pixels; 0 predicts whole images, None does what
            training did.
        map_classes: of `class_map.match_classes`.
    """

    split: str = "test"
    tta: Tta = NO_TTA
    window: int | None = None
    map_classes: list[str] | None = None

    def check(self) -> None:
        """Raise InputError for a value that cannot be used."""
        if self.split not in SPLITS:
            raise InputError(f"split is {self.split!r}, must be one of {', '.join(SPLITS)}")
        if self.window and self.window < MIN_WINDOW:
            raise InputError(
                f"--window {self.window} must be at least {MIN_WINDOW} pixels; 0: whole images"
            )


class Evaluation:
    """Scores a network on a table.

    Args:
        predictor: of `load_model`.
        table: of `open_table`.
        options: what is evaluated.
        other: a second network for the same images, to compare with the first.

    Attributes:
        messages: what a user should know before the scores.
        rows: the rows of the table that are scored.
        split: where they are from: "val", "test" or "val of the label budget".
        done: how many of them are scored.

    Raises:
        InputError: the split has no masks, or classes or channels do not fit.

    Example:
        >>> evaluation = Evaluation(cid_ray.load_model("runs/demo"), cid_ray.open_table("demo"))
        >>> for done in evaluation.run():
        ...     print(done, "of", len(evaluation.rows))
        >>> evaluation.report()["miou"]
        51.75
    """

    def __init__(
        self,
        predictor: Predictor,
        table: Table,
        options: EvalOptions = EvalOptions(),
        other: Predictor | None = None,
    ):
        options.check()
        self.table = table
        self.options = options
        self.messages: list[str] = []
        self.rows, self.split = self._choose_rows(predictor)
        found = [predictor] if other is None else [predictor, other]
        how = (options.tta, options.window, options.map_classes)
        self.networks = [EvaluatedNetwork(one, table, *how) for one in found]
        if other is not None:
            _check_same_classes(predictor, other)
        for network in self.networks:
            self.messages += network.messages
        class_map = self.networks[0].class_map
        pixels = table.class_pixels[self.rows].sum(0).tolist()
        counted = dict(zip(table.classes, pixels, strict=True))
        self.ignored_pixels = {name: counted[name] for name in class_map.ignored}
        if sum(pixels) == sum(self.ignored_pixels.values()):
            raise InputError(
                f"{table.folder}: no pixel of {self.split} has a class of the checkpoint; "
                "see its classes in meta.json, and --map-classes"
            )
        self.done = 0
        self.seconds = 0.0

    # ---- which images ----

    def _choose_rows(self, predictor: Predictor) -> tuple[np.ndarray, str]:
        """The rows to score and where they are from; a message if that is not what was asked."""
        candidates = {
            "test": lambda: masked_rows(self.table, "test"),
            "val": lambda: masked_rows(self.table, "val"),
            "val of the label budget": lambda: self._rows_of_budget(predictor),
        }
        order = ["val of the label budget", "val"]  # as in training
        if self.options.split == "test":
            order = list(candidates)
        for name in order:
            rows = candidates[name]()
            if len(rows):
                if not name.startswith(self.options.split):
                    text = f"{self.table.folder} has no masks in test: {name} is evaluated"
                    self.messages.append(text)
                return rows, name
        wanted = "test or val" if self.options.split == "test" else "val"
        raise InputError(
            f"{self.table.folder} has no masks in {wanted}, so there is nothing to compare "
            "predictions with; name a table that has some with --table, or import them with "
            "`python -m cid_ray.prepare`"
        )

    def _rows_of_budget(self, predictor: Predictor) -> np.ndarray:
        """The val images of a run with `data.val_from_budget`, if this is the run's table."""
        data = predictor.config.data
        if not data.val_from_budget:
            return np.empty(0, np.int64)
        if predictor.data.table != self.table.fingerprint:
            if self.options.split == "val":
                self.messages.append(
                    "the run took val from its label budget, of another table: the table's own val "
                    "is evaluated"
                )
            return np.empty(0, np.int64)
        return make_split(self.table, data).val

    # ---- scores ----

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the scores, as JSON values."""
        networks = [
            {**network.describe(), "sha256": network.predictor.checkpoint.sha256()}
            for network in self.networks
        ]
        return {
            "table": self.table.fingerprint,
            "split": self.split,
            "images": len(self.rows),
            "map_classes": self.options.map_classes,
            "networks": networks,
        }

    def run(self) -> Iterator[int]:
        """Score the images that are left; yields the number of images that are done."""
        started = time.monotonic() - self.seconds
        rows = self.rows[self.done :]
        for row, name in zip(rows.tolist(), self.table.ids(rows), strict=True):
            image, mask = self.table.read(row, mask=True)
            assert mask is not None
            for network in self.networks:
                truth = network.class_map.ids[mask]
                try:
                    predicted, confidence = network.predict(image, truth.shape)
                except InputError as error:
                    raise InputError(
                        f"image {name} of {self.table.folder} cannot be predicted: {error}"
                    ) from None
                network.scores.add(name, truth, predicted, confidence)
            self.done += 1
            self.seconds = time.monotonic() - started
            yield self.done

    def report(self) -> dict[str, Any]:
        """All results as JSON values: what `evaluation.json` holds."""
        first = self.networks[0]
        return {
            **first.describe(),
            "table": str(self.table.folder),
            "fingerprint": self.table.fingerprint,
            "split": self.split,
            "num_images": len(self.rows),
            "classes": first.predictor.classes,
            "colors": first.predictor.colors,
            "ignored_pixels": self.ignored_pixels,
            "messages": self.messages,
            **first.scores.result(),
            "comparison": self._compare(),
            "seconds": round(self.seconds, 3),
            "timestamp": time.time(),
            **provenance(),
        }

    def _compare(self) -> dict[str, Any] | None:
        if len(self.networks) == 1:
            return None
        first, second = self.networks
        order = [second.predictor.classes.index(name) for name in first.predictor.classes]
        comparison = paired_bootstrap(
            np.stack(first.scores.counts), np.stack(second.scores.counts)[..., order]
        )
        names = [str(network.predictor.checkpoint.path) for network in self.networks]
        return {
            **second.describe(),
            **second.scores.result(),
            **comparison.as_dict(),
            "verdict": comparison.verdict(*names),
        }


def _check_same_classes(predictor: Predictor, other: Predictor) -> None:
    if sorted(predictor.classes) != sorted(other.classes):
        raise InputError(
            f"--compare needs equal classes: {predictor.checkpoint.path} has "
            f"{', '.join(predictor.classes)}; {other.checkpoint.path} has "
            f"{', '.join(other.classes)}"
        )
