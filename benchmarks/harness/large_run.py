"""A run folder of thousands of trials that still runs, for its pages: records and status only."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.large_search import write_run
from cid_ray.results.status import process_namespace

LOSSES = {"total": 1.0, "sup": 1.0, "pseudo": 0.1, "relation": 0.1, "style": 0.0, "mask_ratio": 0.5}


def write_running_run(folder: Path, trials: int, running: int) -> None:
    """Records of `trials` trials; the last ones run, and as many have failed once."""
    write_run(folder, trials)
    lines = (folder / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    ends = [record for record in records if record["event"] == "trial"][-running:]
    runs = {record["run"]: record for record in ends}
    kept = [r for r in records if r["event"] == "rung" or r["run"] not in runs]
    retries = [
        {**end, "event": "retry", "attempt": 1, "reason": "its node was lost"} for end in ends
    ]
    for retry in retries:
        del retry["state"]
    with (folder / "records.jsonl").open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in kept + retries)
    status = running_status(trials, runs)
    (folder / "status.json").write_text(json.dumps(status))


def running_status(trials: int, runs: dict[str, Any]) -> dict[str, Any]:
    """The status of a search in which these trials run."""
    position = {"steps": 80, "params": {"loss.relation_weight": 0.1}, "resumed": False}
    measured = {"step": 20, "images_seen": 40, "seconds": 9.0, "images_per_s": 4.0}
    names = ("ratio", "method", "trial_number", "repeats_of", "repeat_index")
    now = time.time()
    return {
        "state": "running",
        "reason": "",
        "total": trials,
        "finished": 0,
        "tested": 0,
        "searches": 0,
        "finished_before": 0,
        "started": now - 1000,
        "timestamp": now,
        "host": process_namespace() + "x",
        "pid": 1,
        "running": {
            run: {
                **{name: end[name] for name in names},
                **position,
                **measured,
                "losses": LOSSES,
                "timestamp": now - 100,
            }
            for run, end in runs.items()
        },
    }
