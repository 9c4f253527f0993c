"""Records of made-up ladders, with every field that real ones have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import Config
from cid_ray.resources.capacity import Resources
from cid_ray.results.ladder_records import rung_record
from cid_ray.results.laws import PowerLaw
from cid_ray.results.records import Record, RecordWriter
from cid_ray.scaling.concurrency_ladder import count_record
from cid_ray.scaling.worker_ladder import count_record as worker_count_record
from tests.helpers import records as made

LAW = PowerLaw(150, 0.6, 15)


def final(method: str, labels: int, seed: int, score: float, **fields: Any) -> Record:
    own = {
        "run": f"labels-{labels}-{method}-{seed}",
        "ratio": str(labels),
        "label_count": labels,
        "pool_count": 192 - labels,
        "seed": seed,
        "seconds": 10.0,
        "test/miou_teacher": score,
        "params": {"data.ratio": str(labels)},
    }
    return made.final(method, labels, **{**own, **fields})


def rung_of(*arguments: Any) -> Record:
    rung = rung_record(*arguments)
    assert rung is not None
    return rung


def label_ladder(counts: tuple[int, ...] = (12, 24, 48, 96), sd: float = 0.3) -> list[Record]:
    random = np.random.default_rng(0)
    finals = [
        final("cid", n, seed, LAW.score(n) + sd * random.standard_normal())
        for seed in range(3)
        for n in counts
    ]
    rungs = [rung_of("labels", finals, one, str(one["label_count"])) for one in finals]
    return [*finals, *rungs]


def label_ladder_of_two(
    factor: float = 2.0, counts: tuple[int, ...] = (12, 24, 48, 96)
) -> list[Record]:
    """Supervised, and a method that makes of n labels what supervised makes of factor * n."""
    random = np.random.default_rng(0)
    finals = [
        final(method, n, seed, LAW.score(times * n) + 0.2 * random.standard_normal())
        for method, times in (("supervised", 1.0), ("cid", factor))
        for seed in range(3)
        for n in counts
    ]
    rungs = [rung_of("labels", finals, one, str(one["label_count"])) for one in finals]
    return [*finals, *rungs]


def pool_ladder(scores: dict[int, list[float]]) -> list[Record]:
    """Pool images -> score of each repeat; the largest is the whole pool."""
    whole = max(scores)
    finals = []
    for pool, own in scores.items():
        for seed, score in enumerate(own):
            fields: dict[str, Any] = {"pool_count": pool, "run": f"pool-{pool}-cid-{seed}"}
            fields["params"] = {"data.pool_fraction": pool / whole}
            finals.append(final("cid", 12, seed, score, **fields))
    return [*finals, *(rung_of("pool", finals, one, str(one["pool_count"])) for one in finals)]


def batch_ladder_records(images_at: dict[int, list[int]]) -> list[Record]:
    """Batch size -> images of each repeat to 60 mIoU on val: curves that rise from 40 at a third.

    All end a bit later with 60, so that is the target. A step has as many pool images as labeled.
    """
    rungs, finals = [], []
    whole = math.lcm(*(2 * size for size in images_at))  # images of whole steps at every size
    total = whole * (1 + max(max(repeats) for repeats in images_at.values()) // whole)
    for size, repeats in images_at.items():
        for seed, images in enumerate(repeats):
            params = {"data.batch_size": size}
            own = {"run": f"batch-{size}-cid-{seed}", "ratio": "12", "seed": seed}
            for seen, score in ((images // 3, 40.0), (images, 60.0), (total, 60.0)):
                at = {"images_seen": seen, "step": seen // (2 * size)}
                rungs.append({**made.rung("cid", 12, 0, 1, score, params=params), **own, **at})
            end = final("cid", 12, seed, 55.0 + seed, run=own["run"], params=params)
            finals.append({**end, **at})
    sizes = [str(end["params"]["data.batch_size"]) for end in finals]
    ladder = [rung_of("batch", finals, *pair) for pair in zip(finals, sizes, strict=True)]
    return [*rungs, *finals, *ladder]


def encoder_rung(name: str, latency: float, score: float) -> Record:
    costs = {"parameters": latency, "gflops": 1.0, "latency_ms": latency}
    end = final("cid", 12, 0, score, run=f"model-{name}-cid-0", params={"model.encoder": name})
    return rung_of("model", [end], end, name, costs)


def concurrency_rung(count: int, per_hour: float) -> Record:
    end = {**final("cid", 12, 0, 40.0), "seconds": 3600 * count / per_hour}
    return count_record(Config(), count, Resources(2 / count, 1 / count), [end] * count, 10**9)


def worker_rung(count: int, mean: float, **measured: Any) -> Record:
    """A count of a worker ladder: six timed steps, a tenth of each in collectives."""
    steps = [mean * factor for factor in (0.97, 1.01, 1.02, 0.99, 1.03, 0.98)]
    parts = {"step": 1.0, "compute": 0.7, "collectives": 0.1, "data": 0.2}
    seconds = {name: [part * one for one in steps] for name, part in parts.items()}
    memory = {"process_bytes": 7 * 10**8, "gpu_process_bytes": None}
    timed = {"seconds": seconds, "images": 64, "gradient_bytes": 4 * 10**6, "memory": memory}
    record = worker_count_record(Config(), count, timed, None, Resources(2, 0))
    costs = {"pool_images": 1713, "usd_per_worker_hour": 0.37, "max_workers": 64}
    record["measured"] |= {**costs, **measured}
    return record


def write_ladder(folder: Path, records: list[Record], config: Config | None = None) -> Path:
    """A ladder's run folder with these records; its configuration is the default one."""
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    (folder / "config.yaml").write_text((config or Config()).to_yaml())
    return folder
