"""Records of made-up ladders, with every field that real ones have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.config import Config
from cid_ray.results.ladder_records import rung_record
from cid_ray.results.laws import PowerLaw
from cid_ray.results.records import Record, RecordWriter
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


def write_ladder(folder: Path, records: list[Record], config: Config | None = None) -> Path:
    """A ladder's run folder with these records; its configuration is the default one."""
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    (folder / "config.yaml").write_text((config or Config()).to_yaml())
    return folder
