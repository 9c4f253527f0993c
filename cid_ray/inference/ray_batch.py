"""Predicts many images by Ray Data: actors with the model, as many as there are images for.

Actors read images and write masks themselves, so images and --out must be where every node finds
them: a shared folder or an object store. Only records come back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cid_ray.config import InputError
from cid_ray.inference.batch import BatchPredictor, PredictionRecord
from cid_ray.inference.image_parts import PredictOptions
from cid_ray.inference.inputs import InputImage
from cid_ray.inference.load import load_model
from cid_ray.inference.mask_files import MaskFiles
from cid_ray.storage.paths import PathOrUri

IMAGES_PER_TASK = 4  # after a kill so many per worker are predicted again, at most
CPUS_PER_WORKER = 1


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to predict."""

    checkpoint: PathOrUri
    network: Literal["teacher", "student"]
    device: str
    out: PathOrUri
    kinds: frozenset[str]
    options: PredictOptions

    def open(self, num_threads: int | None = None) -> BatchPredictor:
        """Load the model."""
        predictor = load_model(self.checkpoint, self.network, self.device, num_threads)
        return BatchPredictor(predictor, MaskFiles(self.out, predictor, self.kinds), self.options)


class PredictWorker:
    """An actor of Ray Data: a row is an image, and becomes its record."""

    def __init__(self, spec: WorkerSpec):
        self._batch = spec.open(num_threads=CPUS_PER_WORKER)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        record = self._batch.predict_one(InputImage(**json.loads(row["image"])))
        return {"record": json.dumps(record)}


def predict_with_ray(
    items: Sequence[InputImage], spec: WorkerSpec, workers: int
) -> Iterator[PredictionRecord]:
    """Predict images with up to `workers` actors of one CPU, and a GPU where the cluster has some.

    Args:
        items: the images.
        spec: what a worker needs.
        workers: actors at most; Ray Data starts fewer for few images or CPUs.

    Yields:
        A record of each image as it is done, in any order.

    Raises:
        InputError: the cluster has no place for a worker.
    """
    import ray
    import ray.data

    total = ray.cluster_resources()
    gpus = 1 if total.get("GPU", 0) >= 1 and spec.device != "cpu" else 0
    if total.get("CPU", 0) < CPUS_PER_WORKER:
        raise InputError("--workers: the Ray cluster has no CPU")
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has one
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"image": json.dumps(asdict(item))} for item in items]
    if not rows:
        return
    dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // IMAGES_PER_TASK))
    predicted = dataset.map(
        PredictWorker,
        fn_constructor_args=(spec,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=CPUS_PER_WORKER,
        num_gpus=gpus or None,
    )
    for row in predicted.iter_rows():
        yield json.loads(row["record"])
