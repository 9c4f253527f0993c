"""A search in this process: training, studies, records and status file are real, Ray is absent."""

from __future__ import annotations

import itertools
from pathlib import Path

from cid_ray.callbacks.status_file import StatusFile
from cid_ray.config import Config, build_config
from cid_ray.search.controller import Decision, Search
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.launch import train
from tests.helpers.tiny_run import TINY


def tiny_search(table: Path) -> Config:
    """A supervised baseline and three CID trials at two ratios, six steps each."""
    space = {"loss.relation_weight": {"float": [0.01, 1.0], "log": True}}
    pruner = {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}}
    changes = {
        "data.table": str(table),
        "train.steps": 6,
        "search.ratios": ["1/8", "1/4"],
        "search.trials": 3,
        "search.space": space,
        "search.pruner": pruner,
        "search.baselines": ["supervised"],
    }
    return build_config(TINY, changes)


def search_until(out: Path, config: Config, rungs: int | None = None) -> Search:
    """Run trial after trial, as `cid_ray.tune` does.

    Args:
        out: the run folder.
        config: the search.
        rungs: return in the middle of a trial after so many rungs, like a kill; None: at the end.

    Returns:
        The search: closed when it ran to the end, else still open.
    """
    search = Search.open(config, RunDir(out))
    search.add_callback(StatusFile())
    seen = itertools.count(1)
    while (trial := search.next_trial()) is not None:
        records = train(trial.config, out, trial.name, score_test=trial.score_test, cpus=1)
        for record in records:
            if search.report(record) is Decision.STOP:
                break
            if record["event"] == "rung" and next(seen) == rungs:
                return search
    search.close()
    return search
