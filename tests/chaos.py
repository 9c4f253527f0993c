"""A search over simulated trials that can be killed at any moment, and the storm that kills it.

`python -m tests.chaos OUT` runs or resumes a search with the real studies, the real Tune loop and the real record; only
the training is simulated: a curve that is a function of the settings, a checkpoint at every rung, and a line in
OUT/work.log for every stretch between rungs that is worked through. `storm` kills drivers, trials and whole clusters.
"""

from __future__ import annotations

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

from cid_ray.config import Config, override
from cid_ray.home import Home
from cid_ray.results.record import Row, read_rows
from cid_ray.search.arms import check_search, make_pruner
from cid_ray.search.studies import Studies
from cid_ray.search.watch import HOW, Watch

RATIOS = ("1/8", "1/4")
STRETCH_SECONDS = float(os.environ.get("CHAOS_STRETCH_SECONDS", "0.05"))  # of work between two rungs


def simulated_config(at_once: int = 1, trials: int = 12, **changes: Any) -> Config:
    space = {
        "loss.relation_weight": {"float": [0.01, 1.0], "log": True},
        "loss.relation_kind": {"choice": ["self", "cross"]},
        "loss.relation_temperature": {"float": [0.05, 0.5], "when": {"loss.relation_kind": "cross"}},
    }
    search = {
        "search.ratios": RATIOS,
        "search.trials": trials,
        "search.space": space,
        "search.pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}},
        "search.confirm.repeats": 2,
        "search.concurrency": at_once,
        "search.retries": 1000,
        "train.steps": 80,
        "train.rungs": [0.125, 0.25, 0.5, 1.0],
        "data.batch_size": 1,
        "data.batch_size_u": 1,
    }
    return override({}, {**search, **changes})


def storm_config(at_once: int) -> Config:
    """The search that is stormed: small, because every trial passes through Tune."""
    return simulated_config(at_once, trials=8, **{"search.baselines": ["supervised"]})


def curve(config: Config, step: int) -> float:
    """A learning curve that depends on settings, seed and draw, with crossings."""
    loss, seed = config.loss, config.train.seed + 10 * config.data.draw
    goal = 60 - 4 * math.log10(loss.relation_weight / 0.1) ** 2 + (loss.relation_kind == "self") + seed % 3
    haste = 3 + 20 * loss.relation_weight
    return goal * (1 - math.exp(-step / haste)) + math.sin(97 * loss.relation_weight * step)


def simulated_rows(root: str, task: dict[str, Any], stretch: float = STRETCH_SECONDS) -> Iterator[Row]:
    """As run.loop.train: from its own checkpoint, whose rung it yields once more, to `final`."""
    config, name, folder = Config.model_validate_json(task["config"]), task["name"], Path(root)
    state = folder / "checkpoints" / name / "state.json"
    (folder / "pids").mkdir(exist_ok=True)
    (folder / "pids" / name).write_text(str(os.getpid()))
    for place in (state.parent.parent, state.parent):
        place.mkdir(exist_ok=True)
    done = json.loads(state.read_text())["step"] if state.exists() else 0
    if done:
        yield {"event": "rung", **simulated_row(config, name, done)}
    for step in config.train.rung_steps:
        if step <= done:
            continue
        time.sleep(stretch)
        with (folder / "work.log").open("a") as log:
            log.write(f"{name} {step}\n")
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step}))
        partial.replace(state)
        yield {"event": "rung", **simulated_row(config, name, step)}
    yield {"event": "final", **simulated_row(config, name, config.train.steps)}


def simulated_row(config: Config, name: str, step: int) -> Row:
    value = curve(config, step)
    return {
        "run": name, "method": config.method, "ratio": config.data.ratio, "ratio_name": config.data.ratio,
        "label_count": 10, "seed": config.train.seed, "draw": config.data.draw,
        "step": step, "steps": config.train.steps,
        "images_seen": step * (1 if config.method == "supervised" else 2), "seconds": step, "images_per_s": 1.0,
        "val/miou": value, "val/miou_teacher": value, "losses": {"total": 1.0, "mask_ratio": 0.5},
    }  # fmt: skip


def uninterrupted(folder: Path, config: Config) -> Studies:
    """The same search, trial after trial in this process, with no Ray and no kills."""
    studies = Studies(Home(folder), config, check_search(config))
    while (assignment := studies.next()) is not None:
        for step in assignment.config.train.rung_steps:
            row = simulated_row(assignment.config, assignment.name, step)
            if studies.rung(assignment.name, row):
                break
        else:
            studies.complete(assignment.name, row)
    return studies


def outcome(studies: Studies) -> dict[str, tuple[str, dict[str, Any], dict[int, float]]]:
    """Run name -> how it ended, its settings, its curve."""
    return {
        t.user_attrs["run"]: (t.state.name, t.params, t.intermediate_values)
        for arm in studies.studies
        for t in studies.trials(arm)
        if "run" in t.user_attrs
    }


CLEAN = {"trials lost": 0, "trials run twice": 0, "ends told wrong": 0, "pruning decisions that differ": 0}


def weathered(out: Path, at_once: int) -> Studies:
    """The studies of a storm as they are on disk."""
    config = storm_config(at_once)
    return Studies(Home(out), config, check_search(config))


def account(out: Path, at_once: int) -> dict[str, int]:
    """What a storm has cost: CLEAN, and some stretches between two rungs that were worked through again."""
    studies = weathered(out, at_once)
    ended = {run: HOW[state.name] for run, state in studies.ended().items()}
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines() if is_json(line)]
    told = [(row["run"], row["state"]) for row in rows if row["event"] == "trial"]
    worked = Counter((out / "work.log").read_text().splitlines())
    too_many = sum(max(0, len(studies.trials(arm)) - studies.wanted(arm)) for arm in studies.studies)
    return {
        "trials lost": studies.total() - len(ended) + len(studies.pending),
        "trials run twice": too_many + len(told) - len(set(run for run, _ in told)),
        "ends told wrong": len(set(told) ^ set(ended.items())),
        "pruning decisions that differ": decisions_that_differ(out, studies),
        "stretches worked twice": sum(worked.values()) - len(worked),
    }


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def decisions_that_differ(out: Path, studies: Studies) -> int:
    """Every report, in the order of the journal, told to fresh pruners that were never killed: do they agree?"""
    place = {t._trial_id: (arm, t) for arm in studies.search_arms() for t in studies.trials(arm) if arm.method == "cid"}
    fresh = {arm: optuna.create_study(direction="maximize", pruner=make_pruner(studies.config, "cid"))
             for arm in studies.search_arms()}  # fmt: skip
    mirrors: dict[int, optuna.Trial] = {}
    differ = 0
    for entry in map(json.loads, (out / "study.journal").read_text().splitlines()):
        if "intermediate_value" not in entry or entry["trial_id"] not in place:
            continue
        arm, trial = place[entry["trial_id"]]
        if trial._trial_id not in mirrors:
            mirrors[trial._trial_id] = fresh[arm].ask()
        mirror = mirrors[trial._trial_id]
        mirror.report(entry["intermediate_value"], entry["step"])
        last = entry["step"] == max(trial.intermediate_values)
        said = entry["step"] < studies.config.train.steps * 2 and mirror.should_prune()
        differ += said != (last and trial.state.name == "PRUNED")
        if last:
            fresh[arm].tell(mirror, None if said else 1.0, state=trial.state)
    return differ


def main(out: Path, at_once: int) -> int:
    """Run or resume the search in a folder, as `cid_ray.tune` does."""
    import functools

    from cid_ray.run import cluster
    from cid_ray.run.display import Display
    from cid_ray.search.journal import Hold
    from cid_ray.search.tuning import run_trials

    config = storm_config(at_once)
    cluster.start_ray()
    out.mkdir(parents=True, exist_ok=True)
    with Hold(out) as hold:
        studies = Studies(Home(out), config, check_search(config))
        with Display(out, studies.total(), "trial") as display:
            watch = Watch(Home(out), hold, studies, display, None)
            signal.signal(signal.SIGINT, watch.interrupt)
            display.say("began")
            run_trials(
                studies,
                watch,
                functools.partial(simulated_rows, str(out), stretch=STRETCH_SECONDS),
                {"CPU": 0.5},
                at_once,
            )
            if watch.reason:
                display.say(f"stopped: {watch.reason}")
                return 1
            return int(len(studies.ended()) < studies.total())


def storm(out: Path, kills: int, seed: int, at_once: int, env: dict[str, str], kinds: tuple[str, ...]) -> Counter[str]:
    """Run the search to its end, with `kills` kill -9 at random moments on the way; what was killed how often."""
    rng, killed = random.Random(seed), Counter[str]()
    command = [sys.executable, "-m", "tests.chaos", str(out), str(at_once)]
    while True:
        began = lines(out, "began")
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and lines(out, "began") == began:
            time.sleep(0.02)
        while process.poll() is None and killed.total() < kills:
            time.sleep(rng.uniform(0.05, 1.5))
            kind = rng.choice(kinds)
            if strike(kind, out, process, rng):
                killed[kind] += 1
            if kind != "trial":
                break
        if process.wait() == 0:
            return killed


def strike(kind: str, out: Path, process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """kill -9 of the driver, of a trial's process, or of everything the driver has started; False when it was gone."""
    if process.poll() is not None:
        return False
    if kind == "trial":
        ended = {row["run"] for row in read_rows(out) if row["event"] == "trial"}
        running = [p for p in (out / "pids").glob("*") if p.name not in ended] if (out / "pids").is_dir() else []
        if not running:
            return False
        target = int(rng.choice(sorted(running)).read_text() or 0)
        return bool(target) and kill(target)
    if kind == "cluster":
        os.killpg(process.pid, signal.SIGKILL)
        for pid in of_session(process.pid):
            kill(pid)
        return True
    return kill(process.pid)


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def of_session(leader: int) -> list[int]:
    """Processes whose environment says that they belong to the driver with this pid."""
    mark = f"CHAOS_DRIVER={leader}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def lines(out: Path, text: str) -> int:
    log = out / "log.txt"
    return log.read_text().count(text) if log.exists() else 0


if __name__ == "__main__":
    os.environ["CHAOS_DRIVER"] = str(os.getpid())  # inherited by the cluster that this driver starts
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
