"""A real search in this process, up to a moment: real training, studies, record and pulse; only Ray is left out."""

from __future__ import annotations

import itertools
from pathlib import Path

from cid_ray import cli
from cid_ray.config import Config, override
from cid_ray.home import Home
from cid_ray.results.pulse import Pulse
from cid_ray.run.display import Display
from cid_ray.run.loop import train
from cid_ray.run.run import Job
from cid_ray.search.arms import check_search
from cid_ray.search.journal import Hold
from cid_ray.search.studies import Studies
from cid_ray.search.watch import Watch
from tests.support import TINY


def tiny_search(table: Path) -> Config:
    space = {"loss.relation_weight": {"float": [0.01, 1.0], "log": True}}
    pruner = {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}}
    changes = {
        "data.table": str(table), "train.steps": 6, "search.ratios": ["1/8", "1/4"], "search.trials": 3,
        "search.space": space, "search.pruner": pruner, "search.baselines": ["supervised"],
    }  # fmt: skip
    return override(TINY, changes)


def search_until(out: Path, config: Config, rungs: int | None = None) -> Watch:
    """Trial after trial as `cid_ray.tune` does, left in the middle of a trial after so many rungs; None: to the end."""
    home = Home(out)
    cli.claim(config, home)
    studies = Studies(home, config, check_search(config))
    watch = Watch(home, Hold(out), studies, Display(out, studies.total(), "trial"), None)
    watch.listeners.append(Pulse(watch))
    seen = itertools.count(1)
    while (assignment := studies.next()) is not None:
        watch.begun(assignment, False)
        for row in train(Job(assignment.config, out, assignment.name, threads=1, test=assignment.test)):
            watch.row(row)
            if row["event"] == "rung" and studies.rung(assignment.name, row):
                watch.ended(assignment.name, "pruned")
                break
            if row["event"] == "final":
                watch.ended(assignment.name, *studies.complete(assignment.name, row))
            if row["event"] == "rung" and next(seen) == rungs:
                return watch
    watch.tell("close")
    return watch
