"""Images per second of `predict`: one process against a plain loop, two workers against one.

The plain loop is what a user would write: open an image, run the network of
segmentation_models_pytorch, save the classes; image files, PNG files and one thread are those of
`predict`. A second plain loop has the network as `predict` holds it (channels last, dilated 1x1
convolutions). All run on one CPU. Workers are those of Ray Data, one CPU each; their start is not
counted.

    python -m benchmarks.predict --out benchmarks/results/predict/result.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from cid_ray.config import Config, ModelConfig
from cid_ray.core.model import Segmenter
from cid_ray.data.image_codec import default_colors, encode_png
from cid_ray.data.ingest.findings import Findings
from cid_ray.data.input_spec import ModelData
from cid_ray.inference.image_parts import PredictOptions
from cid_ray.inference.inputs import InputImage, list_inputs
from cid_ray.inference.load import load_model
from cid_ray.inference.ray_batch import WorkerSpec, predict_with_ray
from cid_ray.resources.ray_session import start_ray, stop_ray
from cid_ray.results.provenance import provenance
from cid_ray.training.checkpoint import save_checkpoint

NUM_CLASSES = 11
SIZE = (320, 480)
WARMUP = 2  # images


def write_model(path: Path) -> None:
    config = Config(model=ModelConfig(encoder="resnet18", decoder="deeplabv3plus"))
    classes = [f"class{index}" for index in range(NUM_CLASSES)]
    data = ModelData(classes=classes, colors=default_colors(NUM_CLASSES))
    net = Segmenter(config.model, NUM_CLASSES)
    save_checkpoint(path, {"teacher": net, "student": net}, config, data, step=0)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:04d}.jpg")


def plain_loop(checkpoint: Path, images: list[InputImage], out: Path, ours: bool) -> float:
    """Seconds of a loop as a user would write it, with smp's network or with `predict`'s."""
    predictor = load_model(checkpoint, device="cpu", num_threads=1)
    palette = predictor.colors
    model = predictor.config.model
    encoder = f"tu-{model.encoder}"
    plain = smp.create_model(model.decoder, encoder, encoder_weights=None, classes=NUM_CLASSES)
    plain.load_state_dict(predictor.net.net.state_dict())
    plain.eval()
    mean, std = predictor.net.mean, predictor.net.std
    out.mkdir(parents=True)

    def smp_logits(images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = plain((images.float() - mean) / std)
        return logits

    @torch.no_grad()
    def one(item: InputImage) -> None:
        pixels = np.array(Image.open(item.source).convert("RGB"))
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        logits = predictor.net(batch)[0] if ours else smp_logits(batch)
        classes = logits.argmax(1)[0].to(torch.uint8).numpy()
        (out / f"{item.name}.png").write_bytes(encode_png(classes, palette))

    for item in images[:WARMUP]:
        one(item)
    started = time.perf_counter()
    for item in images[WARMUP:]:
        one(item)
    return time.perf_counter() - started


def one_process(spec: WorkerSpec, images: list[InputImage]) -> float:
    batch = spec.open(num_threads=1)
    for item in images[:WARMUP]:
        batch.predict_one(item)
    started = time.perf_counter()
    for _ in batch.predict(images[WARMUP:]):
        pass
    return time.perf_counter() - started


def with_workers(spec: WorkerSpec, images: list[InputImage], workers: int) -> float:
    """Seconds from the first record to the last, for the images between them."""
    records = predict_with_ray(images, spec, workers)
    times = [time.perf_counter() for _ in records]
    skipped = len(times) // 4  # the workers start one after the other
    return (times[-1] - times[skipped]) * (len(images) - WARMUP) / (len(times) - 1 - skipped)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--images", type=int, default=80)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    cpus = os.sched_getaffinity(0)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = folder / "last.pt"
        write_model(checkpoint)
        write_images(folder / "images", args.images)
        images = list_inputs(str(folder / "images"), Findings())
        for repetition in range(args.repetitions):
            out = folder / f"out{repetition}"
            spec = WorkerSpec(checkpoint, "teacher", "cpu", out, frozenset(), PredictOptions())
            os.sched_setaffinity(0, {max(cpus)})
            found = {
                "plain loop": plain_loop(checkpoint, images, folder / f"plain{repetition}", False),
                "plain loop, our network": plain_loop(
                    checkpoint, images, folder / f"ours{repetition}", True
                ),
                "one process": one_process(spec, images),
            }
            os.sched_setaffinity(0, cpus)
            start_ray()
            for workers in (1, 2):
                found[f"{workers} workers"] = with_workers(spec, images, workers)
            stop_ray()
            for name, value in found.items():
                seconds.setdefault(name, []).append(round(value, 3))
            print(repetition, found, flush=True)
    rate = {name: (args.images - WARMUP) / statistics.median(s) for name, s in seconds.items()}
    result: dict[str, Any] = {
        "images": args.images - WARMUP,
        "size": SIZE,
        "seconds": seconds,
        "images_per_s": {name: round(value, 2) for name, value in rate.items()},
        "one process / plain loop": round(rate["one process"] / rate["plain loop"], 3),
        "one process / plain loop, our network": round(
            rate["one process"] / rate["plain loop, our network"], 3
        ),
        "efficiency of 2 workers": round(rate["2 workers"] / (2 * rate["1 workers"]), 3),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**result, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
