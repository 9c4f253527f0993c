"""What the driver of a search costs: CPU milliseconds a trial, by part, and how they grow.

    python -m benchmarks.driver controller --trials 200 1000 3000 10000 --concurrent 2000
    python -m benchmarks.driver pages --trials 5000 --running 2000
    python -m benchmarks.driver tune --concurrent 20 --trials 60
    python -m benchmarks.driver sampler --trials 1000 --concurrent 50 --seeds 5

`controller` is the search without Ray's Tune: the real studies, journal, records, status file,
Prometheus gauges, console and pruning in one process, over simulated trials
(benchmarks/harness/driver_load.py). Each size runs in a process of its own. Costs that come by the
second and not by the trial (the export of the gauges, the writing of the status file) are listed
apart, because a simulated search runs faster than the clock. `pages` builds and opens the pages of
a large search. `tune` is the same search through Ray Tune, with an actor for each trial. `sampler`
compares what TPESampler suggests when it sees the whole study and part of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.cpu_parts import CpuParts
from benchmarks.harness.driver_load import RATIOS, Load, load_config
from benchmarks.harness.memory import peak_mib

WINDOW = 0.1  # the last tenth of the trials, which sees the largest studies
TRIAL_SECONDS = 600.0  # of a training to the end, on the virtual clock


def wrap_parts(parts: CpuParts, search: Any) -> None:
    """Count the parts of the driver."""
    import optuna

    from cid_ray.search import controller, pruning
    from cid_ray.search.space import Space

    parts.wrap(search, "next_trial", "next trial: the rest")
    parts.wrap(Space, "suggest", "next trial: Optuna's sampler")
    parts.wrap(optuna.Study, "ask", "next trial: Optuna's ask")
    parts.wrap(search, "report", "report: the rest")
    parts.wrap(controller, "pruned_at_rung", "report: study and pruner")
    parts.wrap(pruning.optuna.Study, "tell", "report: Optuna's tell")
    parts.wrap(search.events.records, "append", "report: records")
    for callback in search.callbacks.callbacks:
        for name in dir(callback):
            if name.startswith("on_") and name != "on_message":
                parts.wrap(callback, name, f"callback {callback.name}")


def add_callbacks(search: Any, console: Any) -> None:
    """Those of `tune`, but the check of memory, which happens once."""
    from cid_ray.callbacks.console import SearchConsole
    from cid_ray.callbacks.prometheus import PrometheusMetrics
    from cid_ray.callbacks.status_file import StatusFile
    from cid_ray.search.status import SearchStatus

    status = SearchStatus(search.store, {ratio: ratio for ratio in RATIOS})
    for callback in (status, SearchConsole(console, status), PrometheusMetrics(), StatusFile()):
        search.add_callback(callback)


def measure(trials: int, concurrent: int, folder: Path, progress_s: float | None) -> dict[str, Any]:
    """Run one search of that size in this process."""
    from cid_ray.cli.console import RunConsole
    from cid_ray.search.controller import Search
    from cid_ray.storage.run_dir import RunDir

    config = load_config(trials)
    parts = CpuParts()
    with (
        open(os.devnull, "w") as silent,
        Search.open(config, RunDir(folder)) as search,
        RunConsole(folder, search.total, "trial") as console,
    ):
        console.console.file = silent
        add_callbacks(search, console)
        wrap_parts(parts, search)
        concurrent = min(concurrent, trials)
        search.queue.max_concurrent = concurrent
        load = Load(
            search,
            concurrent,
            TRIAL_SECONDS,
            lambda trial: progress_s or trial.config.train.progress_s,
        )
        before, wall = time.process_time(), time.monotonic()
        load.run(until=(trials - concurrent) // 2)
        by_second = per_second_costs(search.callbacks.callbacks, concurrent)
        load.run(until=round(trials * (1 - WINDOW)))
        middle = time.process_time(), sum(parts.seconds.values()), load.finished
        load.run()
        cpu, wall = time.process_time() - before, time.monotonic() - wall
        last = sum(parts.seconds.values()) - middle[1]
    if search.rules.reason:
        raise RuntimeError(search.rules.reason)
    total = sum(parts.seconds.values())
    return {
        "trials": load.finished,
        "concurrent": concurrent,
        "driver_ms_per_trial": round(1000 * total / load.finished, 3),
        "last_tenth_ms_per_trial": round(1000 * last / max(1, load.finished - middle[2]), 3),
        "process_cpu_s": round(cpu, 2),
        "wall_s": round(wall, 1),
        "virtual_s": round(load.clock),
        "parts_ms_per_trial": {
            part: round(1000 * seconds / load.finished, 3)
            for part, seconds in sorted(parts.seconds.items(), key=lambda item: -item[1])
        },
        "calls_per_trial": {
            part: round(calls / load.finished, 2) for part, calls in parts.calls.most_common()
        },
        "by_the_second": by_second,
        "records_mb": round((folder / "records.jsonl").stat().st_size / 1e6, 1),
        "journal_mb": round((folder / "study.journal").stat().st_size / 1e6, 1),
        "peak_mib": round(peak_mib()),
    }


def per_second_costs(callbacks: list[Any], concurrent: int) -> dict[str, float]:
    """CPU ms of one write of the status file, and of one export of the gauges every second."""
    found = {}
    for callback in callbacks:
        for name in ("_export", "write"):
            if hasattr(callback, name) and len(getattr(callback, "running", ())) > concurrent / 2:
                before = time.thread_time()
                getattr(callback, name)()
                spent = 1000 * (time.thread_time() - before)
                found[f"{callback.name} of {len(callback.running)} running"] = round(spent, 1)
    return found


def exponent(rows: list[dict[str, Any]]) -> float:
    """k of total CPU ~ n^k, by least squares in log-log."""
    points = [
        (math.log(row["trials"]), math.log(row["trials"] * row["driver_ms_per_trial"]))
        for row in rows
    ]
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    over = sum((x - x_mean) * (y - y_mean) for x, y in points)
    return round(over / sum((x - x_mean) ** 2 for x, _ in points), 3)


def run_sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Each size in a process of its own."""
    rows = []
    for trials in args.trials:
        with tempfile.TemporaryDirectory(dir=args.scratch) as temporary:
            command = [sys.executable, "-m", "benchmarks.driver", "one", str(trials)]
            command += [str(args.concurrent), str(Path(temporary) / "run")]
            command += [str(args.progress_s or 0)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1], indent=1), flush=True)
    result = {"rows": rows, **machine()}
    if len(rows) > 1:
        result["exponent"] = exponent(rows)
        print("exponent", result["exponent"])
    return result


def run_pages(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.harness.driver_pages import measure_pages

    rows = []
    for trials in args.trials:
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(measure_pages(Path(temporary) / "run", trials, args.running))
        print(rows[-1], flush=True)
    return {"rows": rows, **machine()}


def run_tune(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.harness.driver_tune import measure_tune

    with tempfile.TemporaryDirectory() as temporary:
        row = measure_tune(Path(temporary) / "run", args.concurrent, args.trials)
    print(row)
    return {"rows": [row], **machine()}


def run_sampler(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.harness.driver_sampler import compare_views

    rows = compare_views(args.trials, args.concurrent, args.seeds, args.scratch)
    return {"rows": rows, **machine()}


def machine() -> dict[str, Any]:
    from cid_ray.results.provenance import provenance

    load = round(os.getloadavg()[0], 1)
    return {"cpus": os.cpu_count(), "machine": platform.machine(), "load": load, **provenance()}


COMMANDS = {"controller": run_sizes, "pages": run_pages, "tune": run_tune, "sampler": run_sampler}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        trials, concurrent, folder, progress_s = sys.argv[2:6]
        row = measure(int(trials), int(concurrent), Path(folder), float(progress_s) or None)
        print(json.dumps(row))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    pages = commands.add_parser("pages")
    pages.add_argument("--trials", type=int, nargs="+", default=[5000])
    pages.add_argument("--running", type=int, default=2000)
    tune = commands.add_parser("tune")
    tune.add_argument("--concurrent", type=int, default=20)
    tune.add_argument("--trials", type=int, default=60)
    sampler = commands.add_parser("sampler")
    sampler.add_argument("--trials", type=int, default=1000)
    sampler.add_argument("--concurrent", type=int, default=50)
    sampler.add_argument("--seeds", type=int, default=5)
    sampler.add_argument("--scratch", type=Path, help="folder for the journals")
    for command in (pages, tune, sampler):
        command.add_argument("--out", type=Path)
    controller = commands.add_parser("controller")
    add = controller.add_argument
    add("--trials", type=int, nargs="+", default=[200, 1000, 3000, 10000])
    add("--concurrent", type=int, default=2000)
    add("--progress-s", type=float, help="seconds between two progress records of a trial")
    add("--scratch", type=Path, help="folder for the run folders")
    add("--out", type=Path)
    args = parser.parse_args()
    result = COMMANDS[args.command](args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
