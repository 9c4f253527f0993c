"""kill -9 of drivers, trials and clusters at random moments: nothing lost, nothing twice, the same decisions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest

from cid_ray.results.record import read_rows
from cid_ray.search.arms import check_search, make_pruner
from cid_ray.search.journal import open_journal
from cid_ray.search.studies import Studies
from cid_ray.search.watch import HOW
from tests.chaos import outcome, simulated_config, storm, uninterrupted

pytestmark = pytest.mark.ray
KILLS = 4  # of the test that CI runs; `make chaos` makes many more


def weathered(out: Path, at_once: int) -> Studies:
    config = simulated_config(at_once)
    return Studies(out / "study.journal", config, check_search(config))


def check_nothing_lost_nothing_twice(out: Path, studies: Studies, kills: int, at_once: int) -> None:
    assert not studies.pending
    ended = studies.ended()
    assert len(ended) == studies.total()
    assert all(len(studies.trials(arm)) == studies.wanted(arm) for arm in studies.studies)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines() if complete_json(line)]
    said = Counter(row["run"] for row in rows if row["event"] == "trial")
    assert said == Counter(list(ended))
    assert {r["run"]: r["state"] for r in read_rows(out) if r["event"] == "trial"} == {
        run: HOW[state.name] for run, state in ended.items()
    }
    worked = Counter((out / "work.log").read_text().splitlines())
    assert sum(worked.values()) - len(worked) <= kills * at_once  # a kill costs at most the stretch it hit


def complete_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def decisions_that_differ(out: Path, at_once: int) -> int:
    """Every report, in the order of the journal, told to fresh pruners that were never killed: do they agree?"""
    config = simulated_config(at_once)
    storage = open_journal(out / "study.journal")
    real = {
        s.study_name: optuna.load_study(study_name=s.study_name, storage=storage) for s in storage.get_all_studies()
    }
    place = {t._trial_id: (name, t) for name, study in real.items() for t in study.trials}
    fresh: dict[str, optuna.Study] = {}
    mirrors: dict[int, optuna.Trial] = {}
    differ = 0
    for entry in map(json.loads, (out / "study.journal").read_text().splitlines()):
        if "intermediate_value" not in entry:
            continue
        name, trial = place[entry["trial_id"]]
        if not name.endswith(" cid"):
            continue
        study = fresh.setdefault(name, optuna.create_study(direction="maximize", pruner=make_pruner(config, "cid")))
        if trial._trial_id not in mirrors:
            mirrors[trial._trial_id] = study.ask()
        mirror = mirrors[trial._trial_id]
        mirror.report(entry["intermediate_value"], entry["step"])
        last = entry["step"] == max(trial.intermediate_values)
        at_end = entry["step"] == config.train.steps * 2
        said = not at_end and mirror.should_prune()
        differ += said != (last and trial.state.name == "PRUNED")
        if last:
            study.tell(mirror, None if said else 1.0, state=trial.state)
    return differ


def test_one_at_a_time_a_storm_changes_no_suggestion_and_no_decision(ray_cluster: str, tmp_path: Path) -> None:
    killed = storm(tmp_path / "run", KILLS, 0, 1, {"RAY_ADDRESS": ray_cluster}, ("driver", "trial"))
    assert killed.total() == KILLS
    studies = weathered(tmp_path / "run", 1)
    check_nothing_lost_nothing_twice(tmp_path / "run", studies, KILLS, 1)
    assert decisions_that_differ(tmp_path / "run", 1) == 0
    (tmp_path / "calm").mkdir()
    calm: dict[str, Any] = outcome(uninterrupted(tmp_path / "calm", simulated_config(1)))
    assert outcome(studies) == calm
    assert {"PRUNED", "COMPLETE"} == {state for state, _, _ in calm.values()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_long_storm_with_clusters_lost(tmp_path: Path, seed: int) -> None:
    kills, out = 15, tmp_path / "run"
    killed = storm(out, kills, seed, 2, {}, ("driver", "trial", "trial", "cluster"))
    studies = weathered(out, 2)
    check_nothing_lost_nothing_twice(out, studies, killed.total(), 2)
    assert decisions_that_differ(out, 2) == 0
