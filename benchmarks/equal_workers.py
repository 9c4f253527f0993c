"""The same training on 1 to 4 workers and in micro-batches: how far do losses and weights differ?

    python -m benchmarks.equal_workers --out benchmarks/results/equal-workers

Every relation kind, 20 steps on the demo's images, 8 + 8 images a step;
benchmarks/harness/equal_workers.py says how. Three workers hold unequal shards. For comparison, one
worker whose first weights differ by 1e-7 of themselves. Writes result.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness.equal_workers import (
    forced_and_free,
    largest_differences,
    make_config,
    trace_training,
)
from cid_ray.results.provenance import provenance

KINDS = ("self", "cross", "transfer", "class")
NO_BATCH_NORM = {"model.encoder": "test_convnext"}  # layer norm; the FPN decoder has group norm
PERTURBATION = 1e-7


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", type=Path)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--kinds", nargs="+", default=KINDS)
    options.add_argument("--workers", nargs="+", type=int, default=[2, 3, 4])
    args = options.parse_args()
    result: dict[str, Any] = {}
    for kind in args.kinds:
        differences = compare_workers(kind, args.steps, args.workers)
        differences |= compare_micro_batches(kind, args.steps)
        for name, values in differences.items():
            result.setdefault(name, {})[kind] = values
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = {"steps": args.steps, "largest absolute difference": result, **provenance()}
        (args.out / "result.json").write_text(json.dumps(content, indent=1) + "\n")


def compare_workers(kind: str, steps: int, workers: list[int]) -> dict[str, dict[str, float]]:
    config = make_config(kind, steps)
    differences: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = trace_training(config, folder)
        perturbed = trace_training(config, folder, perturbation=PERTURBATION)
        label = "1 worker, weights perturbed by 1e-7"
        differences[label] = largest_differences(single, perturbed)
        show(kind, label, differences[label])
        for count in workers:
            forced, free = forced_and_free(config, folder, count)
            for way, trace in (("step by step", forced), ("on their own", free)):
                label = f"{count} workers, {way}"
                differences[label] = largest_differences(single, trace)
                show(kind, label, differences[label])
    return differences


def compare_micro_batches(kind: str, steps: int) -> dict[str, dict[str, float]]:
    config = make_config(kind, steps, **NO_BATCH_NORM)
    micro = make_config(kind, steps, **NO_BATCH_NORM, **{"train.micro_batch_size": 4})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = trace_training(config, folder)
        traces = {
            "micro-batches of 4, step by step": trace_training(micro, folder, forced=True),
            "2 workers, micro-batches of 4, step by step": forced_and_free(micro, folder, 2)[0],
        }
    differences = {label: largest_differences(single, trace) for label, trace in traces.items()}
    for label, values in differences.items():
        show(kind, label, values)
    return differences


def show(kind: str, label: str, differences: dict[str, float]) -> None:
    values = "  ".join(f"{part} {value:.1e}" for part, value in differences.items())
    print(f"{kind:9} {label:44} {values}", flush=True)


if __name__ == "__main__":
    main()
