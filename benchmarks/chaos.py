"""`make chaos`: searches over simulated trials under kill -9 at random moments, and an account of what it cost.

    python -m benchmarks.chaos --kills 25 --seeds 4

Drivers, trials' processes and whole local clusters are killed while 1 or 2 trials run at a time; each search is resumed
until it has ended. Counted afterwards: trials lost, trials run twice, ends that the record tells wrong, and pruning
decisions that differ from those of pruners that were never killed. Writes a small JSON; exit code 1 unless all are 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from cid_ray.results.record import provenance
from tests.chaos import CLEAN, account, storm

KINDS = ("driver", "trial", "trial", "cluster")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=25, help="in each search")
    options.add_argument("--seeds", type=int, default=4, help="searches")
    options.add_argument("--out", type=Path, default=Path("benchmarks/results/chaos/result.json"))
    args = options.parse_args()
    kills, cost, searches = Counter[str](), Counter[str](), []
    for seed in range(args.seeds):
        started, at_once = time.monotonic(), 1 + seed % 2
        with tempfile.TemporaryDirectory() as folder:
            killed = storm(Path(folder) / "run", args.kills, seed, at_once, {}, KINDS)
            found = account(Path(folder) / "run", at_once)
        kills += killed
        cost.update(found)
        searches.append({"seed": seed, "trials at once": at_once, "kills": dict(killed), **found})
        print(f"seed {seed}: {dict(killed)} killed, {found}, {time.monotonic() - started:.0f} s", flush=True)
    result = {"kills": dict(kills), "kills in all": kills.total(), **cost, "searches": searches, **provenance()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{kills.total()} kills: " + ", ".join(f"{name} {count}" for name, count in cost.items()))
    return int(any(cost[name] for name in CLEAN))


if __name__ == "__main__":
    sys.exit(main())
