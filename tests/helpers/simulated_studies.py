"""Searches over made-up learning curves: studies, journal and pruner are real, nothing is trained.

A curve rises evenly and ends at 50 plus `loss.relation_weight`, so the best trial is known. The
searches of benchmarks/harness/chaos.py have curves that cross instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from cid_ray.config import Config, build_config
from cid_ray.results.records import Record
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Decision, Search
from cid_ray.search.space import Space
from cid_ray.search.study_store import StudyStore
from cid_ray.search.trial_queue import TrialQueue
from cid_ray.search.trial_spec import TrialSpec
from cid_ray.search.trial_states import STATE_NAMES
from cid_ray.storage.run_dir import RunDir
from tests.helpers import records
from tests.helpers.tiny_run import TINY

RATIOS = ("1/16", "1/8")
STEPS = 90
RUNG_STEPS = (10, 30, 90)
IMAGES_PER_STEP = 8
METRIC = "val/miou_teacher"


def search_config(trials: int = 9, **changes: Any) -> Config:
    """Two ratios, three baselines of one trial, and CID trials over one hyperparameter."""
    search = {
        "ratios": list(RATIOS),
        "trials": trials,
        "space": {"loss.relation_weight": {"float": [0.0, 1.0]}},
        "sampler": {"name": "RandomSampler"},
        "pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 3}},
    }
    train = {"train.steps": STEPS, "train.rungs": [1 / 9, 1 / 3, 1.0]}
    return build_config({**TINY, "search": search}, {**train, **changes})


def open_search(folder: Path, config: Config, space: Space | None = None) -> Search:
    """The search in a folder, as `cid_ray.tune` opens it. With its `space` it is not checked."""
    return Search.open(config, RunDir(folder), space=space)


def open_queue(
    folder: Path, config: Config, content_hashes: dict[str, str] | None = None
) -> TrialQueue:
    """The studies in a folder and their trial queue, without lock and records of a search."""
    folder.mkdir(parents=True, exist_ok=True)
    return TrialQueue(StudyStore(RunDir(folder), config, check_search(config), content_hashes))


def kill_search(search: Search) -> None:
    """Leave what SIGKILL leaves: callbacks hear of no end, and the folder's lock is released."""
    search.callbacks.clear()
    search.close()


# ---- records ----


def rung_record(trial: TrialSpec, step: int, **fields: Any) -> Record:
    """What the training loop reports at a rung."""
    value = 50 * step / STEPS + trial.config.loss.relation_weight
    count = label_count(trial.config)
    record = records.rung(trial.key.method, count, trial.number, step, value)
    return {**record, **_progress_fields(trial.name, step), **fields}


def progress_record(trial: TrialSpec, **fields: Any) -> Record:
    """What the training loop reports between two rungs."""
    scores = ("val/miou", METRIC)
    record = {k: v for k, v in rung_record(trial, RUNG_STEPS[0]).items() if k not in scores}
    return {**record, "event": "progress", "warning": None, **fields}


def final_record(trial: TrialSpec, **fields: Any) -> Record:
    """What the training loop reports at the end."""
    value = 50 + trial.config.loss.relation_weight
    count = label_count(trial.config)
    record = records.untested_final(trial.key.method, count, trial.number, value)
    if trial.score_test:
        record = records.final(trial.key.method, count, value, trial.number)
    return {**record, **_progress_fields(trial.name, STEPS), METRIC: value, **fields}


def score_on_test(run_dir: str, cpus: float, payload: dict[str, Any]) -> Iterator[Record]:
    """A finished trial that is resumed: its final record again, with test scores."""
    config = Config.model_validate_json(payload["config"])
    value = 50 + config.loss.relation_weight
    record = records.final(config.method, label_count(config), value)
    yield {**record, **_progress_fields(payload["name"], STEPS), METRIC: value}


def label_count(config: Config) -> int:
    """Of a data set with one image per unit of the ratio's denominator: 1/16 has 16 labels."""
    return int(config.data.ratio.split("/")[1])


def _progress_fields(run: str, step: int) -> Record:
    return {"run": run, "step": step, "steps": STEPS, "images_seen": step * IMAGES_PER_STEP}


def failed_record(trial: TrialSpec, reason: str) -> Record:
    """What a trial's process reports of an exception."""
    return {"event": "failed", "run": trial.name, "reason": reason, "traceback": "Traceback ..."}


# ---- trials ----


def next_trial(search: Search) -> TrialSpec:
    """The next trial; there must be one."""
    trial = search.next_trial()
    assert trial is not None, search.rules.reason
    return trial


def run_trial(search: Search, trial: TrialSpec) -> str:
    """Report all records of a trial; returns its state."""
    for step in RUNG_STEPS:
        if search.report(rung_record(trial, step)) is Decision.STOP:
            break
    else:
        search.report(final_record(trial))
    return state_of(search, trial)


def run_trials(search: Search) -> list[TrialSpec]:
    """Run all trials that are left, one after the other."""
    finished = []
    while (trial := search.next_trial()) is not None:
        run_trial(search, trial)
        finished.append(trial)
    return finished


def state_of(search: Search, trial: TrialSpec) -> str:
    """ "complete", "pruned" or "failed" of a finished trial."""
    return STATE_NAMES[search.store.finished()[trial.name].name]


def finish_trial(queue: TrialQueue, trial: TrialSpec, value: float = 1.0) -> None:
    """Finish a trial in its study only: no records, no look at other machines."""
    del queue.running[trial.name]
    queue.store.finish(trial, TrialState.COMPLETE, [value])
