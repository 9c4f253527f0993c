"""A search over simulated trials that can be killed any time, and the chaos test that kills it.

`python -m benchmarks.harness.chaos OUT` runs or resumes a search with the real studies, Tune loop
and records. Only training is simulated: a curve that is a function of the hyperparameters, a
checkpoint at every rung, and a line in OUT/work.log for every segment between rungs that is done.
`run_with_kills` kills drivers, trials and whole clusters.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna

from cid_ray.callbacks.console import SearchConsole
from cid_ray.cli.console import RunConsole
from cid_ray.cli.signals import stop_signals
from cid_ray.config import Config, build_config
from cid_ray.resources.capacity import Resources
from cid_ray.results.records import Record, read_records
from cid_ray.search import _optuna_compat
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Decision, Search
from cid_ray.search.plugins import make_pruner
from cid_ray.search.status import SearchStatus
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.search.trial_spec import StudyKey
from cid_ray.search.trial_states import STATE_NAMES
from cid_ray.storage.run_dir import RunDir

RATIOS = ("1/8", "1/4")
SEGMENT_S = float(os.environ.get("CHAOS_SEGMENT_S", "0.05"))  # of work between two rungs
STARTED = "search started"  # a line of log.txt for every start of the driver


def simulated_config(max_concurrent: int = 1, trials: int = 12, **changes: Any) -> Config:
    """A search over simulated trials: two ratios, three hyperparameters, two repeats."""
    space = {
        "loss.relation_weight": {"float": [0.01, 1.0], "log": True},
        "loss.relation_kind": {"choice": ["self", "cross"]},
        "loss.relation_temperature": {
            "float": [0.05, 0.5],
            "when": {"loss.relation_kind": "cross"},
        },
    }
    search = {
        "search.ratios": RATIOS,
        "search.trials": trials,
        "search.space": space,
        "search.pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}},
        "search.repeats.n": 2,
        "search.max_concurrent_trials": max_concurrent,
        "search.retries": 1000,
        "train.steps": 80,
        "train.rungs": [0.125, 0.25, 0.5, 1.0],
        "data.batch_size": 1,
        "data.batch_size_u": 1,
    }
    return build_config({}, {**search, **changes})


def chaos_config(max_concurrent: int) -> Config:
    """The search of the chaos test: small, because every trial passes through Tune."""
    return simulated_config(max_concurrent, trials=8, **{"search.baselines": ["supervised"]})


def curve(config: Config, step: int) -> float:
    """A learning curve that depends on hyperparameters, seed and label draw, with crossings."""
    loss = config.loss
    seed = config.train.seed + 10 * config.data.draw
    goal = 60 - 4 * math.log10(loss.relation_weight / 0.1) ** 2
    goal += (loss.relation_kind == "self") + seed % 3
    time_constant = 3 + 20 * loss.relation_weight
    ripple = math.sin(97 * loss.relation_weight * step)
    return goal * (1 - math.exp(-step / time_constant)) + ripple


def simulated_record(config: Config, name: str, step: int) -> Record:
    """What the training loop would report at a step, with the fields of `rung` and of `final`."""
    value = curve(config, step)
    return {
        "run": name,
        "method": config.method,
        "ratio": config.data.ratio,
        "trial_number": 0,  # this and the next two: the search writes its own
        "repeats_of": "",
        "repeat_index": 0,
        "ratio_name": config.data.ratio,
        "label_count": 10,
        "val_count": 4,
        "pool_count": 100,
        "draw": config.data.draw,
        "label_from": "any",
        "seed": config.train.seed,
        "steps": config.train.steps,
        "workers": 1,
        "device": "simulated",
        "split_id": "0123456789ab",
        "data": "0123456789abcdef",
        "fingerprint": "0123456789abcdef",
        "versions": {},
        "python": "3.11.7",
        "machine": "simulated",
        "git": None,
        "step": step,
        "images_seen": step * config.images_per_step,
        "seconds": step,
        "images_per_s": 1.0,
        "val/miou": value,
        "val/miou_teacher": value,
        "val/iou": {},
        "val/iou_teacher": {},
        "val/pixel_accuracy": 50.0,
        "val/pixel_accuracy_teacher": 50.0,
        "val/absent": [],
        "losses": {
            "total": 1.0,
            "sup": 1.0,
            "pseudo": 0.0,
            "relation": 0.0,
            "style": 0.0,
            "mask_ratio": 0.5,
        },
        "samples": [],
        "colors": {},
        "unreadable": 0,
        "unreadable_ids": [],
        "skipped_steps": 0,
        "warning": None,
        "warnings": [],
    }


def simulated_records(config: Config, name: str) -> Iterator[Record]:
    """All records of a trial, without files and without waiting."""
    for step in config.train.rung_steps:
        yield {"event": "rung", **simulated_record(config, name, step)}
    yield {"event": "final", **simulated_record(config, name, config.train.steps)}


def simulated_trial(
    run_dir: str, cpus: float, payload: dict[str, Any], segment_s: float = SEGMENT_S
) -> Iterator[Record]:
    """Like `training.launch.train`: resumes from its checkpoint, whose rung it yields again."""
    config = Config.model_validate_json(payload["config"])
    name = payload["name"]
    folder = Path(run_dir)
    state = folder / "checkpoints" / name / "state.json"
    (folder / "pids").mkdir(exist_ok=True)
    (folder / "pids" / name).write_text(str(os.getpid()))
    state.parent.parent.mkdir(exist_ok=True)
    state.parent.mkdir(exist_ok=True)
    done = json.loads(state.read_text())["step"] if state.exists() else 0
    if done:
        yield {"event": "rung", **simulated_record(config, name, done)}
    for step in config.train.rung_steps:
        if step <= done:
            continue
        time.sleep(segment_s)
        with (folder / "work.log").open("a") as log:
            log.write(f"{name} {step}\n")
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step}))
        partial.replace(state)
        yield {"event": "rung", **simulated_record(config, name, step)}
    yield {"event": "final", **simulated_record(config, name, config.train.steps)}


def uninterrupted(folder: Path, config: Config) -> Search:
    """The same search, trial after trial in this process, with no Ray and no kills; closed."""
    search = Search.open(config, RunDir(folder))
    while (trial := search.next_trial()) is not None:
        for record in simulated_records(trial.config, trial.name):
            if search.report(record) is Decision.STOP:
                break
    search.close()
    return search


Outcome = dict[str, tuple[str, dict[str, Any], dict[int, float]]]


def outcome(store: StudyStore) -> Outcome:
    """Run name -> its final state, hyperparameters and curve."""
    return {
        t.user_attrs["run"]: (t.state.name, t.params, t.intermediate_values)
        for key in store.studies
        for t in store.trials(key)
        if "run" in t.user_attrs
    }


# ---- the account ----

CLEAN = {
    "trials lost": 0,
    "trials run twice": 0,
    "ends recorded wrong": 0,
    "pruning decisions that differ": 0,
}


def reopened(out: Path, max_concurrent: int) -> TrialQueue:
    """The studies of a chaos test as they are on disk, and what of them is interrupted."""
    config = chaos_config(max_concurrent)
    return TrialQueue(StudyStore(RunDir(out), config, check_search(config)))


def account(out: Path, max_concurrent: int) -> dict[str, int]:
    """What the kills have cost: CLEAN, and segments between two rungs that were done again."""
    queue = reopened(out, max_concurrent)
    store = queue.store
    finished = {run: STATE_NAMES[state.name] for run, state in store.finished().items()}
    text = (out / "records.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines() if _is_json(line)]
    ends = [(r["run"], r["state"]) for r in records if r["event"] == "trial"]
    segments = Counter((out / "work.log").read_text().splitlines())
    extra = sum(max(0, len(store.trials(k)) - store.n_trials(k)) for k in store.studies)
    lost = store.total_trials() - len(finished) + len(queue.resume_queue)
    return {
        "trials lost": lost,
        "trials run twice": extra + len(ends) - len({run for run, _ in ends}),
        "ends recorded wrong": len(set(ends) ^ set(finished.items())),
        "pruning decisions that differ": decisions_that_differ(out, store),
        "segments done twice": sum(segments.values()) - len(segments),
    }


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def decisions_that_differ(out: Path, store: StudyStore) -> int:
    """Every report, in the order of the journal, to new pruners that were never killed."""
    cid_keys = [key for key in store.search_keys() if key.method == "cid"]
    trials = {_optuna_compat.trial_id(t): (key, t) for key in cid_keys for t in store.trials(key)}
    pruner = functools.partial(make_pruner, store.config, "cid")
    studies: dict[StudyKey, optuna.Study] = {
        key: optuna.create_study(direction="maximize", pruner=pruner()) for key in cid_keys
    }
    replayed: dict[int, optuna.Trial] = {}
    differ = 0
    for line in (out / "study.journal").read_text().splitlines():
        entry = json.loads(line)
        if "intermediate_value" not in entry or entry["trial_id"] not in trials:
            continue
        key, trial = trials[entry["trial_id"]]
        if entry["trial_id"] not in replayed:
            replayed[entry["trial_id"]] = studies[key].ask()
        replay = replayed[entry["trial_id"]]
        replay.report(entry["intermediate_value"], entry["step"])
        last = entry["step"] == max(trial.intermediate_values)
        full_length = entry["step"] >= store.config.train.steps * 2
        pruned = not full_length and replay.should_prune()
        differ += pruned != (last and trial.state.name == "PRUNED")
        if last:
            studies[key].tell(replay, None if pruned else 1.0, state=trial.state)
    return differ


# ---- the kills ----


def run_or_resume(out: Path, max_concurrent: int) -> int:
    """Run or resume the search in a folder, as `cid_ray.tune` does."""
    from cid_ray.resources.ray_session import start_ray
    from cid_ray.search.ray_adapter import run_search

    start_ray()
    with (
        Search.open(chaos_config(max_concurrent), RunDir(out)) as search,
        RunConsole(out, search.total, "trial") as console,
        stop_signals("the same command", console.log, search.interrupt),
    ):
        status = SearchStatus(search.store, {ratio: ratio for ratio in RATIOS})
        for callback in (status, SearchConsole(console, status)):
            search.add_callback(callback)
        console.log(STARTED)
        trial_fn = functools.partial(simulated_trial, segment_s=SEGMENT_S)
        run_search(search, Resources(0.5, 0), max_concurrent, trial_fn)
        if search.rules.reason:
            console.log(f"stopped: {search.rules.reason}")
            return 1
        return int(len(search.store.finished()) < search.store.total_trials())


def run_with_kills(
    out: Path,
    kills: int,
    seed: int,
    max_concurrent: int,
    env: dict[str, str],
    kinds: tuple[str, ...],
) -> Counter[str]:
    """Run the search to its end with `kills` SIGKILLs at random moments.

    Returns:
        What was killed how often: "driver", "trial", "cluster".
    """
    rng = random.Random(seed)
    killed = Counter[str]()
    command = [sys.executable, "-m", "benchmarks.harness.chaos", str(out), str(max_concurrent)]
    while True:
        starts = count_log_lines(out, STARTED)
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and count_log_lines(out, STARTED) == starts:
            time.sleep(0.02)
        while process.poll() is None and killed.total() < kills:
            time.sleep(rng.uniform(0.05, 1.5))
            kind = rng.choice(kinds)
            if _kill_one(kind, out, process, rng):
                killed[kind] += 1
            if kind != "trial":
                break
        if process.wait() == 0:
            return killed


def _kill_one(kind: str, out: Path, process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """SIGKILL to the driver, a trial's process, or all that the driver started.

    Returns:
        False when there was nothing to kill.
    """
    if process.poll() is not None:
        return False
    if kind == "trial":
        finished = {r["run"] for r in read_records(out) if r["event"] == "trial"}
        pids = sorted((out / "pids").glob("*")) if (out / "pids").is_dir() else []
        running = [p for p in pids if p.name not in finished]
        if not running:
            return False
        pid = int(rng.choice(running).read_text() or 0)
        return bool(pid) and send_sigkill(pid)
    if kind == "cluster":
        os.killpg(process.pid, signal.SIGKILL)
        for pid in _started_by(process.pid):
            send_sigkill(pid)
        return True
    return send_sigkill(process.pid)


def send_sigkill(pid: int) -> bool:
    """False when the process does not exist."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _started_by(driver: int) -> list[int]:
    """Processes whose environment says that they belong to the driver with this pid."""
    mark = f"CHAOS_DRIVER={driver}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def count_log_lines(out: Path, text: str) -> int:
    """How often log.txt has a text."""
    log = out / "log.txt"
    return log.read_text().count(text) if log.exists() else 0


if __name__ == "__main__":
    # Inherited by the cluster that this driver starts.
    os.environ["CHAOS_DRIVER"] = str(os.getpid())
    sys.exit(run_or_resume(Path(sys.argv[1]), int(sys.argv[2])))
