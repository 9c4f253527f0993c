"""The same training on 1, 2, 3 and 4 workers and in micro-batches: how far losses, gradients and weights part.

    python -m benchmarks.equal_workers --out benchmarks/results/equal-workers

Every relation kind, 20 steps on the demo's images, 8 + 8 images a step (tests/equal_workers.py says how). Three workers
hold unequal shares. For comparison, one worker whose first weights differ by 1e-7 of themselves. Writes result.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from cid_ray.results.record import provenance
from tests.equal_workers import apart, config_of, follow, on_workers

KINDS = ("self", "cross", "transfer", "class")
WITHOUT_BATCH_NORM = {"model.encoder": "test_convnext"}  # layer norm; smp's FPN has group norm


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--kinds", nargs="+", default=KINDS)
    options.add_argument("--workers", nargs="+", type=int, default=[2, 3, 4])
    args = options.parse_args()
    result: dict[str, Any] = {}

    def note(way: str, kind: str, found: dict[str, float]) -> None:
        result.setdefault(way, {})[kind] = found
        print(f"{kind:9} {way:40} " + "  ".join(f"{part} {value:.1e}" for part, value in found.items()), flush=True)

    for kind in args.kinds:
        config = config_of(kind, args.steps)
        with tempfile.TemporaryDirectory() as folder:
            alone = follow(config, Path(folder))
            note("1 worker, weights jolted by 1e-7", kind, apart(alone, follow(config, Path(folder), jolt=1e-7)))
            for world in args.workers:
                forced, free = on_workers(config, Path(folder), world)
                note(f"{world} workers, step by step", kind, apart(alone, forced))
                note(f"{world} workers, on their own", kind, apart(alone, free))
        with tempfile.TemporaryDirectory() as folder:
            alone = follow(config_of(kind, args.steps, **WITHOUT_BATCH_NORM), Path(folder))
            parts = config_of(kind, args.steps, **WITHOUT_BATCH_NORM, **{"train.micro_batch": 4})
            note("micro_batch 4, step by step", kind, apart(alone, follow(parts, Path(folder), forced=True)))
            note("2 workers, micro_batch 4, step by step", kind, apart(alone, on_workers(parts, Path(folder), 2)[0]))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        said = {"steps": args.steps, "largest absolute difference": result, **provenance()}
        (args.out / "result.json").write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
