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
from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import Config, InputError
from cid_ray.results.records import RECORDS_FILE, Record, RecordReader
from cid_ray.results.status import STATUS_FILE
from cid_ray.search.checks import directions_of
from cid_ray.search.consistency import (
    TRIAL_EVENTS,
    Trials,
    check_run_folder,
    newest_by_run,
    study_name_of,
)
from cid_ray.search.journal import (
    JOURNAL,
    open_journal,
    problem_of_line,
    read_journal,
    read_lines,
    stored_trials,
)
from cid_ray.search.rebuilt_trial import LOST, rebuilt_trial
from cid_ray.search.space import Space
from cid_ray.search.trial_spec import search_studies
from cid_ray.search.trial_states import FAILURE_REASON
from cid_ray.storage import paths
from cid_ray.storage.run_dir import RunDir

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
    if config.study.storage:
        lines.append(f"the studies are in {config.study.storage}, which is not changed")
    elif (folder / JOURNAL).exists() or any(record["event"] == "trial" for record in records):
        records, changes = rebuild_journal(run_dir, config, records)
        lines += changes
    text = "".join(json.dumps(record) + "\n" for record in records)
    paths.write_text(folder / RECORDS_FILE, text)
    (folder / STATUS_FILE).unlink(missing_ok=True)  # no search runs here
    if run_dir.remote:
        paths.remove(paths.join(run_dir.uri, STATUS_FILE))
    if not config.study.storage:
        lines += check_run_folder(run_dir, RecordReader(folder), config.search)
    return lines


def backup(run_dir: RunDir) -> Path:
    """Copy records, journal and status into a new folder of the run."""
    folder = run_dir.local / BACKUP
    try:
        folder.mkdir(exist_ok=True)
        copies = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=folder))
        for name in (RECORDS_FILE, JOURNAL, STATUS_FILE):
            if (run_dir.local / name).is_file():
                shutil.copy2(run_dir.local / name, copies)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}); nothing was changed"
        ) from None
    return copies


def rebuild_journal(
    run_dir: RunDir, config: Config, records: Sequence[Record]
) -> tuple[list[Record], list[str]]:
    """Replace the journal by one that agrees with the records.

    Returns:
        The records that agree with it: without the ends of trials that are interrupted now, and
        without trials that this search cannot have. What was done, a line each.
    """
    old, attrs, problem = readable_trials(run_dir)
    space = Space.parse(config.search.space)
    known = records_by_trial(records)
    names = dict.fromkeys([*old, *(study for study, _ in known)])
    foreign = [name for name in names if not _is_of_search(name, config)]
    sizes = {
        name: _num_trials(old.get(name, ()), [n for study, n in known if study == name], config)
        for name in names
        if name not in foreign
    }
    states: Counter[str] = Counter()
    kept: set[tuple[str, int]] = set()
    finished: set[tuple[str, int]] = set()
    with tempfile.TemporaryDirectory(dir=run_dir.local, prefix=".repair-") as temporary:
        new = Path(temporary) / JOURNAL
        storage = open_journal(new, run_dir.uri)
        for name, size in sizes.items():
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions_of(config)
            )
            for key, value in attrs.get(name, {}).items():
                study.set_user_attr(key, value)
            for number in range(size):
                before = old[name][number] if number < len(old.get(name, ())) else None
                trial = rebuilt_trial(before, known.get((name, number), []), config, space)
                study.add_trial(trial)
                states[_change(before, trial)] += 1
                kept.add((name, number))
                if trial.state.is_finished():
                    finished.add((name, number))
        new.replace(run_dir.local / JOURNAL)
    agreeing = [record for record in records if _agrees(record, kept, finished)]
    lines = [f"{JOURNAL} {problem}"] if problem else []
    lines += [f"removed the study {name!r}, which is not one of this search" for name in foreign]
    if len(agreeing) < len(records):
        lines.append(f"removed {len(records) - len(agreeing)} record(s) that these contradict")
    return agreeing, lines + [f"{count} trial(s) {what}" for what, count in states.items()]


def _num_trials(old: Sequence[FrozenTrial], recorded: Sequence[int], config: Config) -> int:
    """How many trials a rebuilt study gets; `recorded` are the trial numbers in the records.

    A number far above all others is damage: a trial would be added for each one below it.
    """
    limit = 2 * max(len(old), config.search.trials) + 100
    return max([len(old), *(number + 1 for number in recorded if number < limit)])


def _is_of_search(study_name: str, config: Config) -> bool:
    own = [key.study_name for key in search_studies(config)]
    return study_name.partition(", repeats of ")[0] in own


def _agrees(record: Record, kept: set[tuple[str, int]], finished: set[tuple[str, int]]) -> bool:
    if record["event"] not in TRIAL_EVENTS:
        return True
    trial = (study_name_of(record), record["trial_number"])
    return trial in (finished if record["event"] == "trial" else kept)


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


def _change(before: FrozenTrial | None, after: FrozenTrial) -> str:
    """What happened to a trial of a study, in words that follow "N trials"."""
    if after.state == TrialState.FAIL and after.user_attrs.get(FAILURE_REASON) == LOST:
        return "are lost: nothing is known of them"
    if before is not None and before.state == after.state:
        same_score = before.state != TrialState.COMPLETE or before.values == after.values
        return "are as they were" if same_score else "have the score that the records show"
    if after.state.is_finished():
        return "are finished, as the records show"
    return "are interrupted: --resume continues them from their checkpoints or trains them again"
