"""Make the records and the studies of a damaged run folder agree again.

What the records measured is kept. What they lack is not known, whatever the studies say of it, so
such a trial becomes an interrupted one: `--resume` continues it from its checkpoint or trains it
again. Hyperparameters are taken from the studies where these can be read, else from the records.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import Config, InputError
from cid_ray.results.records import RECORDS_FILE, Record, RecordReader
from cid_ray.results.status import STATUS_FILE
from cid_ray.search.analysis import in_space
from cid_ray.search.checks import directions_of
from cid_ray.search.consistency import Trials, newest_by_run, study_name_of
from cid_ray.search.journal import (
    JOURNAL,
    open_journal,
    problem_of_line,
    read_journal,
    read_lines,
    stored_trials,
)
from cid_ray.search.space import Space
from cid_ray.search.trial_states import FAILURE_REASON
from cid_ray.storage import paths
from cid_ray.storage.run_dir import RunDir

LOST = "its hyperparameters are in no record and in no study: the run folder was damaged"
BACKUP = "backup"


def repair_run(run_dir: RunDir, config: Config) -> list[str]:
    """Repair a run folder whose files were copied first.

    Args:
        run_dir: the run folder, locked and pulled.
        config: the run's configuration.

    Returns:
        What was done, a line each.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = run_dir.local
    reader = RecordReader(folder)
    records = reader.read()
    lines = [f"copies of the files as they were: {backup(run_dir)}"]
    if reader.skipped:
        lines.append(reader.skipped.replace("skipped", "removed", 1))
    text = "".join(json.dumps(record) + "\n" for record in records)
    paths.write_text(folder / RECORDS_FILE, text)
    if config.study.storage:
        lines.append(f"the studies are in {config.study.storage}, which is not changed")
    elif (folder / JOURNAL).exists() or any(record["event"] == "trial" for record in records):
        lines += rebuild_journal(run_dir, config, records)
    (folder / STATUS_FILE).unlink(missing_ok=True)  # no search runs here
    if run_dir.remote:
        paths.remove(paths.join(run_dir.uri, STATUS_FILE))
    return lines


def backup(run_dir: RunDir) -> Path:
    """Copy records, journal and status into a new folder of the run."""
    folder = run_dir.local / BACKUP / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    for name in (RECORDS_FILE, JOURNAL, STATUS_FILE):
        if (run_dir.local / name).is_file():
            shutil.copy2(run_dir.local / name, folder)
    return folder


def rebuild_journal(run_dir: RunDir, config: Config, records: Sequence[Record]) -> list[str]:
    """Replace the journal by one that agrees with the records."""
    old, attrs, problem = readable_trials(run_dir)
    space = Space.parse(config.search.space)
    with tempfile.TemporaryDirectory(dir=run_dir.local, prefix=".repair-") as temporary:
        new = Path(temporary) / JOURNAL
        storage = open_journal(new, run_dir.uri)
        states: Counter[str] = Counter()
        known = records_by_trial(records)
        for name in {**old, **{study: None for study, _ in known}}:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions_of(config)
            )
            for key, value in attrs.get(name, {}).items():
                study.set_user_attr(key, value)
            numbers = [number for study_name, number in known if study_name == name]
            for number in range(max([len(old.get(name, ())), *(n + 1 for n in numbers)])):
                before = old[name][number] if number < len(old.get(name, ())) else None
                trial = rebuilt_trial(before, known.get((name, number), []), config, space)
                study.add_trial(trial)
                states[_change(before, trial)] += 1
        new.replace(run_dir.local / JOURNAL)
    lines = [f"{JOURNAL} {problem}"] if problem else []
    return lines + [f"{count} trial(s) {what}" for what, count in states.items()]


def readable_trials(run_dir: RunDir) -> tuple[Trials, Mapping[str, Mapping[str, Any]], str]:
    """The trials and attributes of the studies, up to the first damaged line, and the damage."""
    lines = []
    problem = ""
    for number, line in enumerate(read_lines(run_dir.local / JOURNAL), start=1):
        problem = problem_of_line(line)
        if problem:
            problem = f"is read up to line {number - 1}; line {number}: {problem}"
            break
        lines.append(line)
    with tempfile.TemporaryDirectory(prefix="cid_ray-") as temporary:
        copy = Path(temporary) / JOURNAL
        copy.write_bytes(b"".join(lines))
        try:
            storage = read_journal(copy, run_dir.uri)
        except InputError:
            return {}, {}, "is not read: its lines contradict each other"
        trials = stored_trials(storage, run_dir.uri)
        attrs = {
            name: optuna.load_study(study_name=name, storage=storage).user_attrs for name in trials
        }
    return trials, attrs, problem


def records_by_trial(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """(study name, trial number) -> its records in order, of every trial that has one."""
    found: dict[tuple[str, int], list[Record]] = {}
    of_trials = newest_by_run(records)
    for record in records:
        if record["run"] in of_trials and record["event"] not in ("search", "noise"):
            key = (study_name_of(record), record["trial_number"])
            found.setdefault(key, []).append(record)
    return found


def rebuilt_trial(
    before: FrozenTrial | None, records: Sequence[Record], config: Config, space: Space
) -> FrozenTrial:
    """A trial of a study, finished only if its records show it.

    Args:
        before: the trial as the study had it, if it is known.
        records: those of the trial, in order.
        config: the search's configuration.
        space: its parsed space.
    """
    state, values, reason = _end_of(before, records, config)
    if before is None:
        params, distributions = _searched_params(records, space)
        user_attrs, system_attrs = {}, {}
    else:
        params, distributions = before.params, before.distributions
        user_attrs, system_attrs = dict(before.user_attrs), before.system_attrs
    if records:
        user_attrs["run"] = records[0]["run"]
    if reason:
        user_attrs[FAILURE_REASON] = reason
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=params,
        distributions=distributions,
        user_attrs=user_attrs,
        system_attrs=system_attrs,
        intermediate_values=_rung_values(records, config),
    )


def _end_of(
    before: FrozenTrial | None, records: Sequence[Record], config: Config
) -> tuple[TrialState, list[float] | None, str]:
    """State, values and reason of failure that the records show."""
    by_event = {record["event"]: record for record in records}
    final = by_event.get("final")
    end = by_event.get("trial", {}).get("state")
    was = before.state if before else None
    if final and final[config.search.metric] is not None:
        objective = config.search.second_objective
        if not objective:
            return TrialState.COMPLETE, [final[config.search.metric]], ""
        if objective in final:
            return TrialState.COMPLETE, [final[config.search.metric], final[objective]], ""
    if "rung" in by_event and not final and (end == "pruned" or was == TrialState.PRUNED):
        return TrialState.PRUNED, None, ""
    if end == "failed" or "failed" in by_event or was == TrialState.FAIL:
        reason = by_event.get("trial", {}).get("reason") or by_event.get("failed", {}).get("reason")
        return TrialState.FAIL, None, str(reason or "unknown")
    if before is None and not records:
        return TrialState.FAIL, None, LOST
    if was == TrialState.WAITING and not records:
        return TrialState.WAITING, None, ""
    return TrialState.RUNNING, None, ""


def _searched_params(
    records: Sequence[Record], space: Space
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Hyperparameters that the sampler suggested, from the records of a trial that searches."""
    with_params = [record for record in records if record.get("params")]
    if not with_params or with_params[-1]["repeats_of"]:
        return {}, {}
    method = with_params[-1]["method"]
    distributions = {p.key: p.distribution for p in space.of_method(method).parameters}
    params = {
        key: value
        for key, value in with_params[-1]["params"].items()
        if key in distributions and in_space(space, key, value)
    }
    return params, {key: distributions[key] for key in params}


def _rung_values(records: Sequence[Record], config: Config) -> dict[int, float]:
    """images_seen -> what the pruner saw, as `pruned_at_rung` reports it."""
    if config.search.second_objective:
        return {}  # Optuna keeps none of trials with two objectives
    found = {}
    for record in records:
        if record["event"] == "rung":
            value = record[config.search.metric]
            found[record["images_seen"]] = float("nan") if value is None else value
    return found


def _change(before: FrozenTrial | None, after: FrozenTrial) -> str:
    """What happened to a trial of a study, in words that follow "N trials"."""
    if after.state == TrialState.FAIL and after.user_attrs.get(FAILURE_REASON) == LOST:
        return "are lost: nothing is known of them"
    if before is not None and before.state == after.state and before.values == after.values:
        return "are as they were"
    if after.state.is_finished():
        return "are finished, as the records show"
    return "are interrupted: --resume continues them from their checkpoints or trains them again"
