"""The fault table: what each fault costs a training on two workers, and whether its end is the same.

    python -m benchmarks.faults --times 3 --out benchmarks/results/faults

Every line is a Ray cluster of its own with two nodes (tests/faults.py); the fault strikes in the middle of an epoch.
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

from cid_ray.results.record import provenance
from tests.faults import FAULTS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--faults", nargs="+", default=FAULTS)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.times):
        for fault in args.faults:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "tests.faults", fault, f"{folder}/run"]
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            lines = done.stdout.strip().splitlines()
            said = json.loads(lines[-1]) if done.returncode == 0 and lines else {"fault": fault, "recovered": False}
            print(said, flush=True)
            found.setdefault(fault, []).append(said)
    print("| fault | tried | recovered | seconds lost | the same end |")
    for fault, lines in found.items():
        ended = [line for line in lines if line["recovered"]]
        lost = statistics.median(line["seconds_lost"] for line in ended) if ended else float("nan")
        same = sum(line["equal"] for line in ended)
        print(f"| {fault} | {len(lines)} | {len(ended)} | {lost:.1f} | {same} of {len(ended)} |")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "result.json").write_text(json.dumps({"faults": found, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
