"""Measures a ladder that trains: runs what is missing, and writes a record for each count.

The run folder holds everything, so the same ladder continues after a stop, and takes further counts
and repeats. Checkpoints of finished trainings are removed: a ladder measures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator

from cid_ray.config import Config, InputError
from cid_ray.resources import ray_session
from cid_ray.results.formatting import format_duration, format_score
from cid_ray.results.ladder import SCORE
from cid_ray.results.ladder_page import append_conclusions
from cid_ray.results.ladder_records import Costs, rung_record
from cid_ray.results.records import Record, RecordWriter, of_event, read_records
from cid_ray.scaling.ladders import LADDERS, Training, ladder_trainings
from cid_ray.scaling.network_costs import network_costs
from cid_ray.scaling.ray_trainings import run_trainings
from cid_ray.search.plan import Placement, plan_placement
from cid_ray.storage.checkpoint_paths import remove_checkpoints
from cid_ray.storage.run_config import load_run_config, write_config
from cid_ray.storage.run_dir import RunDir
from cid_ray.training import preflight

Log = Callable[..., None]
# A training's records that are kept. Those between rungs are only shown.
KEPT_EVENTS = ("rung", "final", "failed", "retry")


class TrainingLadder:
    """A checked ladder of trainings.

    Args:
        name: key of LADDERS.
        config: the ladder's configuration.
        run_dir: its run folder.
        resumed: whether the run folder holds the ladder already.

    Attributes:
        total: steps of all trainings. unit: what they are.

    Raises:
        InputError: a count makes no valid training, or the run folder holds another ladder.
    """

    unit = "step"
    verbose = False  # show what Ray's processes print

    def __init__(self, name: str, config: Config, run_dir: RunDir, resumed: bool):
        if resumed:
            preflight.check_resumed_config(config, load_run_config(run_dir), run_dir.uri)
        self.name, self.config, self.run_dir = name, config, run_dir
        self.trainings = ladder_trainings(config, name)
        self.total = sum(training.config.train.steps for training in self.trainings)
        self.costs: dict[str, Costs] = {}
        by_encoder: dict[str, list[Config]] = {}
        for training in self.trainings:
            by_encoder.setdefault(training.config.model.encoder, []).append(training.config)
        found = []
        for encoder, variants in by_encoder.items():
            found.append(preflight.check_data(variants[0], variants))
            if name == "model":
                self.costs[encoder] = network_costs(variants[0], found[-1].table)
        check_counts(name, found, self.trainings)

    def measure(self, log: Log, advance: Log) -> list[Record]:
        """Train what is missing.

        Args:
            log: prints a line; `always=True` says that it is important.
            advance: shows the steps that are done, and a text.

        Returns:
            All records of the ladder.
        """
        run_dir, name = self.run_dir, self.name
        write_config(self.config, run_dir)
        writer = RecordWriter(run_dir.local)
        records = read_records(run_dir.local)
        finished = {final["run"] for final in of_event(records, "final")}
        missing = [one for one in self.trainings if one.name not in finished]
        log(f"{LADDERS[name].what}: {len(self.trainings)} trainings, {len(missing)} to do")
        if missing:
            ray_session.start_ray(self.verbose, metadata={"run": run_dir.basename})
            placement = plan_placement(self.config, ray_session.cluster_capacity())
            log(f"{placement.max_concurrent} at a time, each with {placement.resources}")
            progress = LadderProgress(self.trainings, missing, log, advance)
            for record in _train(name, missing, run_dir, placement, progress):
                writer.append(record)
                if record["event"] == "final":
                    self._write_rungs(writer)
                    remove_checkpoints(self.config, run_dir.uri, record["run"])
                run_dir.push()
        self._write_rungs(writer)
        return append_conclusions(run_dir.local)

    def _write_rungs(self, writer: RecordWriter) -> None:
        """The `ladder` records that are missing or older than the finished trainings."""
        records = read_records(self.run_dir.local)
        known = {rung["run"]: rung for rung in of_event(records, "ladder")}
        for final in of_event(records, "final"):
            label = str(final["params"][LADDERS[self.name].changed])
            rung = rung_record(self.name, records, final, label, self.costs.get(label))
            same = rung is not None and known.get(rung["run"], {}).get("samples") == rung["samples"]
            if rung is not None and not same:
                known[rung["run"]] = rung
                writer.append(rung)


def check_counts(ladder: str, found: list[preflight.Preflight], trainings: list[Training]) -> None:
    """Raise InputError when two counts of a ladder mean the same."""
    names = Counter(training.name for training in trainings)
    same = [name for name, number in names.items() if number > 1]
    if same:
        raise InputError(f"scale.{LADDERS[ladder].key}: two counts have the run name {same[0]!r}")
    if ladder != "labels":
        return
    budgets: dict[int, str] = {}
    for ratio, split in found[0].splits.items():
        other = budgets.setdefault(split.label_budget, ratio)
        if other != ratio:
            raise InputError(
                f"scale.ratios: {other} and {ratio} are both {split.label_budget} labels; leave "
                "out one of them"
            )


def _train(
    name: str,
    missing: list[Training],
    run_dir: RunDir,
    placement: Placement,
    progress: LadderProgress,
) -> Iterator[Record]:
    """The records to keep, with what the ladder changed as `params`."""
    ladder = LADDERS[name]
    by_name = {training.name: training for training in missing}
    for record in run_trainings(missing, run_dir.uri, placement):
        progress.show(record)
        if record["event"] in KEPT_EVENTS:
            if record["event"] in ("rung", "final"):
                config = by_name[record["run"]].config
                record = {**record, "params": ladder.counted(config)}
            yield record


class LadderProgress:
    """The bar and the lines of a ladder.

    Args:
        trainings: all of the ladder.
        missing: those that this process runs.
        log: prints a line.
        advance: moves the bar to a number of steps.
    """

    def __init__(
        self, trainings: list[Training], missing: list[Training], log: Log, advance: Log
    ) -> None:
        self._log, self._advance = log, advance
        self._steps = {training.name: 0 for training in missing}
        self._total = sum(training.config.train.steps for training in missing)
        self._before = sum(t.config.train.steps for t in trainings) - self._total
        self._finished = len(trainings) - len(missing)
        self._count = len(trainings)
        self._started = time.monotonic()
        advance(self._before)

    def show(self, record: Record) -> None:
        """Show one record of a training."""
        if "step" in record:
            self._steps[record["run"]] = record["step"]
        done = sum(self._steps.values())
        self._advance(self._before + done, f"{self._finished}/{self._count} trainings")
        if record.get("warning"):
            self._log(f"warning: {record['run']}: {record['warning']}", always=True)
        if record["event"] in ("failed", "retry"):
            self._log(f"{record['run']}: {record['event']}: {record['reason']}", always=True)
        if record["event"] == "final":
            self._finished += 1
            elapsed = time.monotonic() - self._started
            left = elapsed * (self._total - done) / max(1, done)
            score = format_score(record.get(SCORE))
            self._log(
                f"{record['run']}: test mIoU {score}; {self._finished}/{self._count} trainings, "
                f"ETA {format_duration(left)}"
            )
