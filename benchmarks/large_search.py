"""What a search of thousands of trials costs its report and its live page.

Makes up the records of a search, with the fields and sizes of real ones. Measures in processes of
their own: `report` (seconds, size of the page, peak memory), and the live page (seconds from a new
rung in the file to the page that shows it). Seconds are CPU time of the one process, so that other
work on the machine does not count. Several sizes show how the cost grows.

    python -m benchmarks.large_search --old CHECKOUT --out benchmarks/results/integrity/load.json

--old measures another checkout of cid_ray on the same records, interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness.chaos import simulated_config, simulated_record
from cid_ray.config import Config
from cid_ray.results.provenance import provenance

CLASSES = [f"class {number}" for number in range(19)]
RATIOS = ("1/16", "1/8")
REPETITIONS = 3


def records_of_search(trials: int, config: Config) -> Iterator[dict[str, Any]]:
    """Of each trial its rungs, a third of them to the end, and the `trial` record."""
    chance = random.Random(0)
    for number in range(trials):
        ratio = RATIOS[number % len(RATIOS)]
        run = f"{ratio.replace('/', '_')}-cid-{number // len(RATIOS):03d}"
        params = {"loss.relation_weight": chance.uniform(0.01, 1), "loss.relation_kind": "self"}
        quality = chance.uniform(-5, 5)
        state = "complete" if number % 3 == 0 else "pruned"
        steps = config.train.rung_steps if state == "complete" else config.train.rung_steps[:2]
        for step in steps:
            record = {**full_record(config, run, ratio, number, step, quality), "params": params}
            yield {"event": "rung", **record}
        if state == "complete":
            yield {"event": "final", **record}
        identity = {key: record[key] for key in ("run", "ratio", "method", "trial_number")}
        identity |= {"repeats_of": "", "repeat_index": 0}
        yield {
            "event": "trial",
            **identity,
            "state": state,
            "reason": "",
            "timestamp": 1e9 + number,
        }


def full_record(
    config: Config, run: str, ratio: str, number: int, step: int, quality: float
) -> dict[str, Any]:
    """A rung of the size that 19 classes give it."""
    record = simulated_record(config, run, step)
    value = min(99.0, max(1.0, 60 * step / config.train.steps + quality))
    iou = dict.fromkeys(CLASSES, value)
    return {
        **record,
        "method": "cid",
        "ratio": ratio,
        "ratio_name": f"{ratio} ({186 * 16 // int(ratio[2:])})",
        "label_count": 186 * 16 // int(ratio[2:]),
        "trial_number": number // len(RATIOS),
        "val/miou": value,
        "val/miou_teacher": value,
        "val/iou": iou,
        "val/iou_teacher": iou,
        "colors": {name: [128, 64, 128] for name in CLASSES},
        "versions": provenance()["versions"],
    }


def write_run(folder: Path, trials: int) -> None:
    """A run folder with records and configuration, and no studies."""
    config = simulated_config(trials=trials)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    with (folder / "records.jsonl").open("w") as file:
        for record in records_of_search(trials, config):
            file.write(json.dumps(record) + "\n")


def measured(code: str, folder: Path, checkout: Path) -> dict[str, float]:
    """Run code of a checkout in a process of its own; it prints its figures as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# The other checkout may lack benchmarks.harness.memory.
PEAK = """
def peak_mib():
    with open("/proc/self/status") as file:
        return int(file.read().split("VmHWM:")[1].split()[0]) / 1024
"""
REPORT = """
import contextlib, io, json, sys, time
from cid_ray.report import main
folder = sys.argv[1]
before = time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    main([folder])
seconds = time.process_time() - before
import pathlib
size = (pathlib.Path(folder) / "report" / "index.html").stat().st_size
print(json.dumps({"report_s": seconds, "report_mb": size / 1e6, "report_peak_mib": peak_mib()}))
"""
LIVE = """
import json, os, sys, time
from pathlib import Path
from cid_ray.results.live_page import open_runs, run_page
from cid_ray.storage.run_dir import RunDir
folder = Path(sys.argv[1])
(run,) = open_runs([RunDir(folder)])
def page():
    before = time.process_time()
    run.poll()
    html = run_page(run, [run])
    return time.process_time() - before, len(html)
first, _ = page()
with (folder / "records.jsonl").open() as file:
    rung = json.loads(next(line for line in file if '"event": "rung"' in line))
later = []
for number in range(3):
    new = 1000 * os.getpid() + number  # of no earlier process
    rung |= {"run": f"1_16-cid-{new}", "trial_number": new}
    with (folder / "records.jsonl").open("a") as file:
        file.write(json.dumps(rung) + "\\n")
    seconds, size = page()
    later.append(seconds)
print(json.dumps({"live_first_s": first, "live_after_rung_s": sorted(later)[1],
                  "live_mb": size / 1e6, "live_peak_mib": peak_mib()}))
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[500, 5000, 30000])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--old", type=Path, help="another checkout, measured interleaved")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    checkouts = {"new": Path(__file__).parents[1]}
    if args.old:
        checkouts = {"old": args.old, **checkouts}
    rows = []
    for trials in args.trials:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            write_run(folder, trials)
            size = (folder / "records.jsonl").stat().st_size / 1e6
            found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
            for _ in range(args.repetitions):
                for name, checkout in checkouts.items():
                    figures = [measured(code, folder, checkout) for code in (REPORT, LIVE)]
                    found[name].append(figures[0] | figures[1])
            for name, figures in found.items():
                row: dict[str, Any] = {"code": name, "trials": trials, "records_mb": round(size, 1)}
                for key in figures[0]:
                    row[key] = round(statistics.median(one[key] for one in figures), 2)
                rows.append(row)
                print(row, flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"rows": rows, **provenance()}
        args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
