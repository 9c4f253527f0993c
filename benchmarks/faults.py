"""The fault table: what each fault costs on two workers, and whether the final weights are equal.

    python -m benchmarks.faults --times 3 --out benchmarks/results/faults

Each line is a Ray cluster of its own with two nodes (benchmarks/harness/faults.py); the fault
happens in the middle of an epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness.faults import FAULTS
from cid_ray.results.provenance import provenance


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--faults", nargs="+", default=FAULTS)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.times):
        for fault in args.faults:
            outcome = run(fault)
            print(outcome, flush=True)
            outcomes.setdefault(fault, []).append(outcome)
    show(outcomes)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"faults": outcomes, **provenance()}, indent=1)
        (args.out / "result.json").write_text(content + "\n")


def run(fault: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.harness.faults", fault, f"{folder}/run"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"fault": fault, "recovered": False}
    outcome: dict[str, Any] = json.loads(lines[-1])
    return outcome


def show(outcomes: dict[str, list[dict[str, Any]]]) -> None:
    print("| fault | tries | recovered | seconds lost | equal weights |")
    for fault, tries in outcomes.items():
        recovered = [outcome for outcome in tries if outcome["recovered"]]
        seconds = [outcome["seconds_lost"] for outcome in recovered]
        lost = statistics.median(seconds) if seconds else float("nan")
        equal = sum(outcome["equal"] for outcome in recovered)
        counts = f"{len(tries)} | {len(recovered)} | {lost:.1f} | {equal} of {len(recovered)}"
        print(f"| {fault} | {counts} |")


if __name__ == "__main__":
    main()
