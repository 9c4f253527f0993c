"""Two or more runs side by side: what differs in configuration, data, software and result.

Everything comes from the records and the configuration in the run folders. A comparison holds plain
values only: `comparison.json` is all of it, and text and pages are made of nothing else.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cid_ray.config import Config, InputError
from cid_ray.config.validators import flatten
from cid_ray.results.compact_records import CompactRecordReader
from cid_ray.results.recorded_run import Metric, RecordedRun, names_of, read_run
from cid_ray.results.records import Record, of_event
from cid_ray.results.score_comparison import Grid, MethodComparison, compare_scores, measure
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir

SPACE = "search.space"
SPLIT_FIELDS = {
    "split_id": "label split",
    "label_count": "labels",
    "pool_count": "pool images",
    "val_count": "val images",
}
SOFTWARE_FIELDS = ("git", "device", "machine", "workers", "python")


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in all runs.

    Attributes:
        what: a dotted key, a package, "table content".
        values: name of the run -> its value; a run that has none is left out.
    """

    what: str
    values: dict[str, Any]


@dataclass(frozen=True)
class RunTotals:
    """What a run did.

    Attributes:
        name: of the run.
        folder: as the user named it.
        metric: whose scores are shown.
        complete: trials that were trained to their last step; of `train` its one run.
        pruned: trials that were stopped early.
        failed: trials that raised.
        stale: trials that another machine took over.
        unfinished: trials without an end.
        repeats: finished repeats of trials, which are not counted above.
        seconds: of training, in trials and repeats, over all restarts.
    """

    name: str
    folder: str
    metric: str
    complete: int
    pruned: int
    failed: int
    stale: int
    unfinished: int
    repeats: int
    seconds: float


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; every difference of scores is a run minus the first one.

    Attributes:
        runs: what each of them did, in the order given.
        cautions: sentences that come before any score.
        config: the keys whose values differ.
        data: what differs in the table and in its splits.
        software: what differs in versions, commit and device.
        methods: the scores of every method at every label ratio, fewest labels first.

    Example:
        >>> comparison = compare_runs(["runs/before", "runs/after"])
        >>> [difference.what for difference in comparison.config]
        ['loss.relation_weight']
    """

    runs: list[RunTotals]
    cautions: list[str]
    config: list[Difference]
    data: list[Difference]
    software: list[Difference]
    methods: list[MethodComparison]

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]


def compare_runs(names: Sequence[PathOrUri], metric: Metric | None = None) -> RunComparison:
    """Compare the folders of finished or stopped searches and trainings, from records alone.

    Args:
        names: two or more run folders, local or `s3://`. Differences are to the first one.
        metric: whose scores are shown, "val/miou_teacher" or the student's "val/miou"; None: as
            each run was configured.

    Returns:
        What differs in configuration, data, software and result.

    Raises:
        InputError: a folder is no run folder, is damaged, holds a ladder, or is given twice.

    Example:
        >>> comparison = compare_runs(["runs/before", "runs/after"])
        >>> for method in comparison.methods:
        ...     after = method.runs.get("after")
        ...     if after and after.difference:
        ...         print(method.ratio, method.method, after.difference.test)
    """
    if len(names) < 2:
        raise InputError("a comparison needs two run folders or more")
    runs = []
    for folder, name in zip(names, names_of(names), strict=True):
        with RunDir(folder) as run_dir:
            run_dir.pull()
            reader = CompactRecordReader(run_dir.local)
            runs.append(read_run(run_dir, name, reader, metric))
            if reader.skipped:
                warnings.warn(reader.skipped, stacklevel=2)
    return compare(runs)


def compare(runs: Sequence[RecordedRun]) -> RunComparison:
    """The same for runs that were read."""
    grid = measure(runs)
    return RunComparison(
        runs=[run_totals(run) for run in runs],
        cautions=_cautions(runs, grid),
        config=_differing({run.name: _config_values(run.config) for run in runs}),
        data=_data_differences(runs),
        software=_differing({run.name: _software(run.records) for run in runs}),
        methods=compare_scores(grid, runs[0].name),
    )


def run_totals(run: RecordedRun) -> RunTotals:
    """Trials by their end, and the seconds of all."""
    states = {record["run"]: record["state"] for record in of_event(run.records, "trial")}
    stale = {record["run"] for record in of_event(run.records, "stale")}
    finals = {record["run"] for record in of_event(run.records, "final")}
    trials: dict[str, bool] = {}  # run -> whether it repeats another one
    seconds: dict[str, float] = {}
    for record in run.records:
        if record["event"] in ("rung", "final", "trial", "failed"):
            trials[record["run"]] = bool(record["repeats_of"])
        if record["event"] in ("rung", "final"):
            seconds[record["run"]] = max(seconds.get(record["run"], 0.0), record["seconds"])
    ends = Counter[str]()
    for name, is_repeat in trials.items():
        end = states.get(name, "complete" if name in finals else "unfinished")
        ends["stale" if name in stale else f"{end} repeat" if is_repeat else end] += 1
    return RunTotals(
        name=run.name,
        folder=run.folder,
        metric=run.metric,
        complete=ends["complete"],
        pruned=ends["pruned"],
        failed=ends["failed"],
        stale=ends["stale"],
        unfinished=ends["unfinished"],
        repeats=ends["complete repeat"],
        seconds=sum(seconds.values()),
    )


# ---- configuration, data, software ----


def _differing(values: dict[str, dict[str, Any]]) -> list[Difference]:
    """Name of the run -> its values by key: the keys that are not the same in all of them."""
    keys = sorted({key for own in values.values() for key in own})
    parents = {key[:end] for key in keys for end, letter in enumerate(key) if letter == "."}
    found = [
        Difference(key, {name: own[key] for name, own in values.items() if key in own})
        for key in keys
        # A mapping that is empty in some runs: the keys that others have in it say so.
        if key not in parents or any(own.get(key) for own in values.values())
    ]
    return [each for each in found if not _is_same(each.values, len(values))]


def _is_same(values: dict[str, Any], count: int) -> bool:
    first, *others = values.values()
    return len(values) == count and all(other == first for other in others)


def _config_values(config: Config) -> dict[str, Any]:
    """Dotted key -> value; a hyperparameter of the search space has its whole distribution."""
    tree = config.model_dump(mode="json")
    space = tree["search"].pop("space")
    return flatten(tree) | {f"{SPACE} {key}": value for key, value in space.items()}


def _data_differences(runs: Sequence[RecordedRun]) -> list[Difference]:
    """The table's content, and of each label draw that several runs used what differs."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for what, value in _data_values(_headers(run.records)).items():
            found.setdefault(what, {})[run.name] = value
    return [
        Difference(what, values)
        for what, values in found.items()
        if not _is_same(values, len(values))
    ]


def _data_values(headers: Iterable[Record]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    for record in headers:
        values.setdefault("table content", []).append(record["data"])
        for field, name in SPLIT_FIELDS.items():
            draw = f"{name} of {record['ratio']}, draw {record['draw']}"
            values.setdefault(draw, []).append(record[field])
    return {what: _one_or_all(each) for what, each in values.items()}


def _software(records: Sequence[Record]) -> dict[str, Any]:
    values: dict[str, list[Any]] = {}
    for record in _headers(records):
        for field in SOFTWARE_FIELDS:
            values.setdefault(field, []).append(record[field])
        for package, version in record.get("versions", {}).items():
            values.setdefault(package, []).append(version)
    return {what: _one_or_all(each) for what, each in values.items()}


def _headers(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record["event"] in ("rung", "final")]


def _one_or_all(values: list[Any]) -> Any:
    """The value that all have, else a list of all different ones (the run moved, or resumed)."""
    different = sorted(set(values), key=str)
    return different[0] if len(different) == 1 else different


# ---- what to say before any score ----


def _cautions(runs: Sequence[RecordedRun], grid: Grid) -> list[str]:
    first, *others = runs
    found = [text for other in others if (text := _not_comparable(first, other, grid))]
    networks = {run.name: "teacher" if "teacher" in run.metric else "student" for run in runs}
    if len(set(networks.values())) > 1:
        shown = ", ".join(f"of {name} the {network}" for name, network in networks.items())
        found.append(f"The runs are scored by different networks: {shown}.")
    tested_on_val = {
        name: None
        for by_run in grid.values()
        for name, measured in by_run.items()
        if measured.final.get("test_is_val")
    }
    if tested_on_val:
        found.append(
            f'There is no test split in {", ".join(tested_on_val)}: "test" there is val, on which '
            "hyperparameters were chosen."
        )
    unscored = [r.name for r in runs if not any(r.name in by_run for by_run in grid.values())]
    if unscored:
        found.append(f"There is no score yet in {', '.join(unscored)}.")
    return found


def _not_comparable(first: RecordedRun, other: RecordedRun, grid: Grid) -> str:
    """Why scores of two runs cannot be compared; "" if they can."""
    start = f"Scores of {other.name} cannot be compared with those of {first.name}"
    tables = [{record["data"] for record in _headers(run.records)} for run in (first, other)]
    if all(tables) and tables[0] != tables[1]:
        contents = " and ".join(", ".join(sorted(table)) for table in tables)
        return f"{start}: the contents of their tables differ ({contents})."
    ratios = {
        ratio: None
        for (ratio, _), by_run in grid.items()
        if first.name in by_run and other.name in by_run
        if (mine := by_run[first.name]).final and (its := by_run[other.name]).final
        if mine.images("test") != its.images("test")
    }
    return f"{start} at {', '.join(ratios)}: the test images differ." if ratios else ""
