"""Do a run's records, its studies and its status tell the same story?

All three are written in a fixed order, each on the disk before the next: a trial enters its study
before its first record, its scores are recorded before its study gets them, and the status counts
only what is recorded. So after any kill each knows at least what the later ones know. Where that is
not so, a file was cut, emptied, removed or replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from cid_ray.config import InputError, SearchConfig
from cid_ray.results import status as status_file
from cid_ray.results.records import RECORDS_FILE, Record, RecordReader
from cid_ray.search.journal import JOURNAL, read_journal, stored_trials
from cid_ray.search.trial_spec import StudyKey
from cid_ray.search.trial_states import FINISHED_STATES, STATE_NAMES
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir

TRIAL_EVENTS = ("rung", "final", "trial", "retry", "failed", "warning")
NAMED = 3  # runs that a message names
# Names of what is compared of a trial.
PARAM, RUNG, FINAL = "hyperparameter ", "score at images ", "final score"

Trials = Mapping[str, Sequence[FrozenTrial]]  # study name -> its trials


def check_consistency(
    reader: RecordReader,
    trials: Trials | None,
    search: SearchConfig,
    run: PathOrUri,
    *,
    shared: str = "",
) -> list[str]:
    """Compare what the folder's records, studies and status know, before anything is written.

    Args:
        reader: of the records of the folder on this machine.
        trials: of the studies, read before the records unless nobody writes; None: there are none.
        search: its metric is what the studies maximize, its space names what they search.
        run: the run folder as the user named it.
        shared: name of studies in a database, which may know more than these records.

    Returns:
        What may be wrong and prevents nothing, a line each.

    Raises:
        InputError: one knows trials that another lacks.
    """
    records = reader.read()
    notes = [reader.skipped]
    if reader.torn:
        notes.append(f"{reader.path} ends within a line: its writer was killed, or it was cut")
    problems = []
    if trials is not None:
        problems.append(missing_in_studies(records, trials, shared))
        notes.append(different_trials(records, trials, search))
    if not shared:
        problems.append(missing_in_records(records, trials or {}))
        try:
            problems.append(
                status_file.lost_records(records, status_file.read_status(reader.path.parent))
            )
        except InputError as error:
            notes.append(str(error))
    found = "; ".join(filter(None, problems))
    if found:
        remedy = f"`python -m cid_ray.repair {run}` makes them agree and keeps a copy"
        if shared:
            remedy = "restore the database, or start anew with another study.name and --out"
        skipped = f" ({reader.skipped})" if reader.skipped else ""
        raise InputError(f"{run} is damaged: {found}{skipped}. Nothing was changed; {remedy}")
    return [note for note in notes if note]


def check_run_folder(run_dir: RunDir, reader: RecordReader, search: SearchConfig) -> list[str]:
    """The same for a reader of a run folder. A folder that is being written is not compared.

    Raises:
        InputError: one knows trials that another lacks, or the journal is damaged.
    """
    with contextlib.suppress(InputError):  # a damaged status is named below
        status = status_file.read_status(run_dir.local)
        if status.get("state") == "running" and not status["gone"]:
            return []
    journal = run_dir.local / JOURNAL
    # Results may be published without their studies.
    trials = None
    if journal.is_file():
        trials = stored_trials(read_journal(journal, run_dir.uri), run_dir.uri)
    return check_consistency(reader, trials, search, run_dir.uri)


def missing_in_studies(records: Sequence[Record], trials: Trials, shared: str = "") -> str:
    """The trials of the records that the studies lack, or do not call finished."""
    prefix = f"{shared}: " if shared else ""
    lacking, unfinished = [], []
    for run, record in newest_by_run(records).items():
        trial = _trial_of(record, trials, prefix)
        if trial is None:
            lacking.append(run)
        elif record["event"] == "trial" and trial.state not in FINISHED_STATES:
            unfinished.append(run)
    studies = "the studies' database" if shared else JOURNAL
    if shared:
        unfinished = []  # another machine may run it again
    found = [
        _count(lacking, f"of {RECORDS_FILE} {{are}} not in {studies}"),
        _count(unfinished, f"finished in {RECORDS_FILE} but not in {studies}"),
    ]
    return "; ".join(filter(None, found))


def missing_in_records(records: Sequence[Record], trials: Trials) -> str:
    """The finished trials of the studies whose measurements the records lack."""
    measured: dict[str, set[str]] = {}
    for record in records:
        measured.setdefault(record["run"], set()).add(record["event"])
    needed = {TrialState.COMPLETE: "final", TrialState.PRUNED: "rung"}
    lacking = [
        trial.user_attrs["run"]
        for study in trials.values()
        for trial in study
        if trial.state in needed
        and needed[trial.state] not in measured.get(trial.user_attrs.get("run", ""), set())
        and "run" in trial.user_attrs
    ]
    return _count(lacking, f"finished in {JOURNAL} {{have}} no scores in {RECORDS_FILE}")


def different_trials(records: Sequence[Record], trials: Trials, search: SearchConfig) -> str:
    """The finished trials whose end, hyperparameters or scores differ from their records."""
    recorded = recorded_facts(records, search.metric)
    fixed = {PARAM + key for key, value in search.space.items() if not isinstance(value, Mapping)}
    found = []
    for study in trials.values():
        # Repeats take over the hyperparameters of another trial: their study has none.
        searches = any(trial.params for trial in study)
        for trial in study:
            run = trial.user_attrs.get("run", "")
            if trial.state not in FINISHED_STATES or run not in recorded:
                continue
            first, second = study_facts(trial), recorded[run]
            differing = (
                name
                for name in first | second
                if first.get(name) != second.get(name)
                and _is_compared(name, trial, second, searches and name not in fixed)
            )
            if name := next(differing, None):
                found.append((run, name, first.get(name, "none"), second.get(name, "none")))
    if not found:
        return ""
    run, name, in_study, in_records = found[0]
    return (
        f"{JOURNAL} and {RECORDS_FILE} disagree on {len(found)} trial(s), such as {run}, {name}: "
        f"{in_study} and {in_records}; the search chooses by {JOURNAL}"
    )


def recorded_facts(records: Sequence[Record], metric: str) -> dict[str, dict[str, str]]:
    """Run -> what its records say of its trial: name of a fact -> its value in words."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        if record["event"] not in ("rung", "final", "trial"):
            continue
        facts = found.setdefault(record["run"], {})
        if record["event"] == "trial":
            facts["end"] = _shown(record["state"])
        elif record["event"] == "rung":
            facts[f"{RUNG}{record['images_seen']}"] = _shown(record.get(metric))
        elif record.get(metric) is not None:  # a trial without a final score does not complete
            facts[FINAL] = _shown(record[metric])
        facts |= {PARAM + name: _shown(value) for name, value in record.get("params", {}).items()}
    return found


def study_facts(trial: FrozenTrial) -> dict[str, str]:
    """The same of a finished trial in its study."""
    facts = {"end": _shown(STATE_NAMES[trial.state.name])}
    facts |= {PARAM + name: _shown(value) for name, value in trial.params.items()}
    facts |= {f"{RUNG}{step}": _shown(value) for step, value in trial.intermediate_values.items()}
    if trial.state == TrialState.COMPLETE:  # the value of a pruned one is that of its last rung
        facts[FINAL] = _shown(trial.values[0])
    return facts


def _is_compared(
    name: str, trial: FrozenTrial, recorded: Mapping[str, str], is_searched: bool
) -> bool:
    """Whether a fact that only the study or only the records know is a disagreement."""
    if name == "end":  # not recorded yet: a kill came between
        return name in recorded
    if name.startswith(RUNG):
        # The last rung of a failed trial may be recorded alone, and Optuna keeps none of trials
        # with two objectives.
        return trial.state != TrialState.FAIL and len(trial.values or ()) < 2
    return not name.startswith(PARAM) or is_searched


def _shown(value: Any) -> str:
    # As text: every digit counts, 1 equals 1.0, and NaN equals itself.
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
    return "nan" if value is None else repr(value)


def newest_by_run(records: Sequence[Record]) -> dict[str, Record]:
    """Run -> its `trial` record if it has one, else any record of the trial."""
    found: dict[str, Record] = {}
    for record in records:
        is_end = found.get(record["run"], {}).get("event") == "trial"
        if record["event"] in TRIAL_EVENTS and not is_end:
            found[record["run"]] = record
    return found


def study_name_of(record: Record) -> str:
    """The name of the study that a record's trial belongs to."""
    return StudyKey(record["ratio"], record["method"], record["repeats_of"]).study_name


def _trial_of(record: Record, trials: Trials, prefix: str) -> FrozenTrial | None:
    study = trials.get(prefix + study_name_of(record), ())
    number: int = record["trial_number"]
    return study[number] if number < len(study) else None


def _count(runs: Sequence[Any], text: str) -> str:
    """ "2 trials are not in ... (a, b)"; "" without a run."""
    if not runs:
        return ""
    is_one = len(runs) == 1
    words = text.format(are="is" if is_one else "are", have="has" if is_one else "have")
    named = ", ".join(str(run) for run in runs[:NAMED]) + (", ..." if len(runs) > NAMED else "")
    return f"{len(runs)} trial{'' if is_one else 's'} {words} ({named})"
