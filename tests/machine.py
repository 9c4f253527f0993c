"""One machine of a search that several share: `python -m tests.machine OUT URL NAME SILENT`.

Searcher, scheduler, studies, record and database are the real ones; training is simulated (tests/chaos.py) and Tune,
which only places trials, is left out: one trial at a time, in this process.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cid_ray.config import Config, override
from cid_ray.home import Home
from cid_ray.run.display import Display
from cid_ray.search.arms import check_search
from cid_ray.search.journal import Hold
from cid_ray.search.studies import Studies
from cid_ray.search.tuning import STOP, Searcher, StudyScheduler, StudySearcher
from cid_ray.search.watch import Watch
from cid_ray.tune import exit_code
from tests.chaos import simulated_config, simulated_rows

STRETCH_SECONDS = 0.1  # between two rungs


class Trial:
    """What of Tune's trial the scheduler reads."""

    def __init__(self, config: dict[str, Any]):
        self.config = config


def shared_config(url: str, name: str) -> Config:
    search = {"search.ratios": ["1/8"], "search.baselines": ["supervised"], "search.confirm.top": 1}
    config = simulated_config(trials=4, **search)
    return override(config.model_dump(mode="json"), {"study.storage": url, "study.name": name})


def shared_studies(out: Path, url: str, name: str, silent: int) -> Studies:
    config = shared_config(url, name)
    return Studies(Home(out), config, check_search(config), silent=silent)


def work(out: Path, url: str, name: str, silent: int, at_rung: Callable[[str], None] = lambda _: None) -> Watch:
    """Trial after trial until nothing is left, here and elsewhere."""
    out.mkdir(parents=True, exist_ok=True)
    with Hold(out) as hold:
        studies = shared_studies(out, url, name, silent)
        with Display(out, studies.total(), "trial") as display, studies.vigil.beating():
            watch = Watch(studies.home, hold, studies, display, None)
            searcher, scheduler = StudySearcher(studies, watch), StudyScheduler(studies, watch)
            while (task := searcher.suggest("one")) != Searcher.FINISHED:
                if task is None:
                    time.sleep(0.1)
                    continue
                for row in simulated_rows(str(out), task, STRETCH_SECONDS):
                    at_rung(task["name"])
                    if scheduler.on_trial_result(None, Trial(task), {"row": json.dumps(row)}) == STOP:
                        break
            if not watch.reason:
                watch.catch_up()
            exit_code(watch, time.monotonic())  # its last lines
            return watch


if __name__ == "__main__":
    sys.exit(bool(work(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])).reason))
