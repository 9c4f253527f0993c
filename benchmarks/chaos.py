"""`make chaos`: searches over simulated trials under kill -9 at random moments, and what it cost.

    python -m benchmarks.chaos --kills 25 --seeds 4

Drivers, trial processes and whole local clusters are killed while 1 or 2 trials run concurrently.
Each search is resumed until it has finished. Counted afterwards: trials lost, trials run twice,
ends that are wrong in the records, and pruning decisions that differ from those of pruners that
were never killed. Writes a small JSON; exit code 1 unless all are 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.harness.chaos import CLEAN, account, run_with_kills
from cid_ray.results.provenance import provenance

KINDS = ("driver", "trial", "trial", "cluster")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25, help="in each search")
    parser.add_argument("--seeds", type=int, default=4, help="searches")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos/result.json"))
    args = parser.parse_args()
    kills = Counter[str]()
    cost = Counter[str]()
    searches = []
    for seed in range(args.seeds):
        started = time.monotonic()
        concurrent = 1 + seed % 2
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            killed = run_with_kills(run_dir, args.kills, seed, concurrent, {}, KINDS)
            found = account(run_dir, concurrent)
        kills += killed
        cost.update(found)
        searches.append(
            {"seed": seed, "concurrent trials": concurrent, "kills": dict(killed), **found}
        )
        seconds = time.monotonic() - started
        print(f"seed {seed}: {dict(killed)} killed, {found}, {seconds:.0f} s", flush=True)
    result = {
        "kills": dict(kills),
        "total kills": kills.total(),
        **cost,
        "searches": searches,
        **provenance(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    counts = ", ".join(f"{name} {count}" for name, count in cost.items())
    print(f"{kills.total()} kills: {counts}")
    return int(any(cost[name] for name in CLEAN))


if __name__ == "__main__":
    sys.exit(main())
