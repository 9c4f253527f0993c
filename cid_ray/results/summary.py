"""Records -> what a user decides by: the methods at each label ratio, and their differences.

Three kinds of runs are kept apart. The chosen run of a method is the one that its search picked on
val. Other trials of the search belong into curves and figures only. Repeats of a run judge it
(noise.py) and enter neither the choice nor the curves.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cid_ray.results.formatting import format_p
from cid_ray.results.noise import Comparison, Noise, paired_blocks
from cid_ray.results.records import Record, of_event

METHOD_NAMES = {
    "supervised": "supervised only",
    "pool_bn": "supervised, pool through batch norm",
    "mean_teacher": "mean teacher",
    "unimatch_v2": "UniMatch V2",
    "self_training": "self-training",
    "cid": "CID",
}
COLORS = {  # of figures; style.css has them too
    "supervised": "#6b7280",
    "pool_bn": "#d97706",
    "mean_teacher": "#2563eb",
    "unimatch_v2": "#7c3aed",
    "self_training": "#0d9488",
    "cid": "#dc2626",
}


@dataclass(frozen=True)
class RunScore:
    """The val score of a run at its last rung."""

    run: str
    method: str
    value: float
    step: int
    steps: int

    @property
    def full_length(self) -> bool:
        return self.step >= self.steps


def best_of(scores: Iterable[RunScore]) -> RunScore | None:
    """The best score so far; the first one of equals, None of none.

    A longer run comes before a higher score: curves still rise, so an early score is no measure.
    """
    return max(scores, key=lambda score: (score.step / score.steps, score.value), default=None)


@dataclass
class RatioSummary:
    """One label ratio: the chosen run of each method, how its search went, and the repeats."""

    ratio: str
    name: str  # "1/16 (23)"
    label_count: int
    metric: str  # "val/miou_teacher" or "val/miou": the network whose scores are shown
    chosen: dict[str, Record] = field(default_factory=dict)  # method -> final record
    rungs: dict[str, list[Record]] = field(default_factory=dict)  # run -> curve; no repeats
    states: dict[str, str] = field(default_factory=dict)  # run -> complete, pruned, failed, running
    finals: dict[str, Record] = field(default_factory=dict)  # run -> final record; no repeats
    searches: dict[str, Record] = field(default_factory=dict)  # method -> search record
    repeats: dict[str, list[Record]] = field(default_factory=dict)  # run -> finals of its repeats

    @property
    def cid_search(self) -> Record:
        """The search record of CID, {} before the end of the search."""
        return self.searches.get("cid", {})

    @property
    def is_supervised_only(self) -> bool:
        """Whether the finished search had no other method here: a point of the label curve."""
        return set(self.searches) == {"supervised"}

    @property
    def test_split(self) -> str:
        """The split behind `test/*` scores: val where the table has no test."""
        return str(next(iter(self.chosen.values()), {}).get("test_split", "test"))

    @property
    def network(self) -> str:
        """Whose scores are shown: "teacher" or "student"."""
        return "teacher" if "teacher" in self.metric else "student"

    def score_key(self, split: str, prefix: str = "") -> str:
        return f"{prefix}{split}/{self.metric.partition('/')[2]}"

    def score(self, method: str, split: str, prefix: str = "") -> float | None:
        """mIoU in percent of a method's chosen run.

        Args:
            method: key of METHOD_NAMES.
            split: val or test.
            prefix: "" for the last step, "best/" for the step that was best on val.
        """
        if method not in self.chosen:
            return None
        return self.chosen[method].get(self.score_key(split, prefix))

    def optimism(self, method: str) -> float | None:
        """Val, which chose the run, minus test: how much better it looks than it is."""
        val, test = self.score(method, "val"), self.score(method, "test")
        return None if val is None or test is None else val - test

    def gain(self, baseline: str, split: str = "test", method: str = "cid") -> float | None:
        """Difference of two chosen runs, in points of mIoU."""
        score, base = self.score(method, split), self.score(baseline, split)
        return None if score is None or base is None else score - base

    def noise(self, split: str) -> Noise:
        """Noise of the repeats' scores on a split.

        Repeats of two runs form a block only if they share number, seed and label draw.
        """
        return paired_blocks({run: self.repeat_scores(run, split) for run in self.repeats})

    def repeat_scores(self, run: str, split: str) -> dict[Hashable, float]:
        """(number, seed, label draw) of each repeat of a run -> its score on a split."""
        key = self.score_key(split)
        return {
            (final["repeat_index"], final.get("seed"), final.get("draw")): final[key]
            for final in self.repeats[run]
            if final.get(key) is not None
        }

    def repeated_runs(self, noise: Noise) -> dict[str, str]:
        """method -> its chosen run, of those that were repeated."""
        runs = {m: str(self.chosen[m]["run"]) for m in METHOD_NAMES if m in self.chosen}
        return {method: run for method, run in runs.items() if run in noise.scores}

    def comparisons(self, subject: str, split: str = "test") -> dict[str, Comparison]:
        """A method minus each other repeated method, as one family; none without repeats."""
        noise = self.noise(split)
        runs = self.repeated_runs(noise)
        if subject not in runs:
            return {}
        others = {run: method for method, run in runs.items() if method != subject}
        found = noise.compare(runs[subject], list(others))
        return {others[run]: comparison for run, comparison in found.items()}

    @property
    def has_noise_floor(self) -> bool:
        """Whether repeats of at least two methods can be compared."""
        noise = self.noise("test")
        return noise.floor is not None and len(self.repeated_runs(noise)) > 1

    def method_of(self, run: str) -> str:
        return str(self.rungs[run][0]["method"])

    def last_scores(self) -> Iterator[RunScore]:
        """Every run that has a val score."""
        for run, rungs in self.rungs.items():
            last = rungs[-1]
            if last[self.metric] is not None:
                yield RunScore(
                    run, last["method"], last[self.metric], step=last["step"], steps=last["steps"]
                )


def summarize(records: Iterable[Record], metric: str = "val/miou_teacher") -> list[RatioSummary]:
    """Sort the records of a run folder by label ratio.

    Args:
        records: as `read_records` returns them, of a finished search or of one that still runs.
        metric: whose scores are shown, "val/miou_teacher" or the student's "val/miou".

    Returns:
        One summary per ratio that has a rung, fewest labels first.

    Raises:
        KeyError: a record lacks a field of its event.

    Example:
        >>> for summary in summarize(read_records("runs/demo")):
        ...     print(summary.name, summary.gain("supervised"))
    """
    records = list(records)
    searches: dict[str, dict[str, Record]] = {}
    for record in of_event(records, "search"):
        searches.setdefault(record["ratio"], {})[record["method"]] = record
    states = {record["run"]: record["state"] for record in of_event(records, "trial")}
    # Several machines share the study: another trial has the result of a stale one.
    stale = {record["run"] for record in of_event(records, "stale")}
    found: dict[str, RatioSummary] = {}
    for record in records:
        if record["event"] not in ("rung", "final") or record["run"] in stale:
            continue
        ratio = record["ratio"]
        if ratio not in found:
            found[ratio] = RatioSummary(
                ratio,
                record["ratio_name"],
                record["label_count"],
                metric,
                searches=searches.get(ratio, {}),
            )
        _add(found[ratio], record, states)
    return sorted(found.values(), key=lambda summary: summary.label_count)


def _add(summary: RatioSummary, record: Record, states: dict[str, str]) -> None:
    """Sort one rung or final record into its ratio."""
    run = record["run"]
    if record["repeats_of"]:
        if record["event"] == "final":
            summary.repeats.setdefault(record["repeats_of"], []).append(record)
    elif record["event"] == "rung":
        summary.rungs.setdefault(run, []).append(record)
        summary.states[run] = states.get(run, "running")
    else:
        summary.finals[run] = record
        if _is_chosen(record, summary.searches):
            summary.chosen[record["method"]] = record


def _is_chosen(record: Record, searches: dict[str, Record]) -> bool:
    """Whether its search chose this run.

    A method without a search has a single run. A search that stopped early may have chosen none: of
    a baseline its only run is shown all the same, but a CID trial that nobody chose is not.
    """
    search = searches.get(record["method"])
    if search is None or (search.get("best") is None and record["method"] != "cid"):
        return True
    return bool(record["run"] == search.get("best"))


def compared(summaries: list[RatioSummary]) -> list[RatioSummary]:
    """The ratios at which methods are compared, without further points of the label curve."""
    return [summary for summary in summaries if not summary.is_supervised_only]


def result_table(summaries: list[RatioSummary]) -> list[dict[str, Any]]:
    """The main table: one line per ratio and method; None where nothing was measured."""
    return [
        _line(summary, method)
        for summary in summaries
        for method in METHOD_NAMES
        if method in summary.chosen
    ]


def _line(summary: RatioSummary, method: str) -> dict[str, Any]:
    final = summary.chosen[method]
    is_supervised = method == "supervised"
    noise = summary.noise("test")
    runs = summary.repeated_runs(noise)
    run = runs.get(method)
    base = None if is_supervised else runs.get("supervised")
    gain = noise.difference(run, base) if run and base else None
    return {
        "ratio": summary.name,
        "ratio_key": summary.ratio,
        "method": method,
        "method_name": METHOD_NAMES[method],
        "is_baseline": method != "cid",
        "run": final["run"],
        "seconds": final["seconds"],
        # scores of the chosen run
        "val": summary.score(method, "val"),
        "test": summary.score(method, "test"),
        "optimism": summary.optimism(method),
        "over_supervised": None if is_supervised else summary.gain("supervised", method=method),
        "best_on_val_step": final.get("best/step"),
        "best_on_val_test": summary.score(method, "test", "best/"),
        "test_is_val": final.get("test_is_val", False),
        # scores of its repeats on test; a gain over supervised only must exceed the floor
        "mean": noise.mean(run) if run else None,
        "sd": noise.sd(run) if run else None,
        "repeats": noise.num_repeats if run else None,
        "gain": gain,
        "floor": noise.floor if run else None,
        "significance": significance(summary.comparisons("supervised").get(method)),
    }


def significance(comparison: Comparison | None) -> str | None:
    """A difference of means in words: "above noise, p 0.012"; None without repeats."""
    if comparison is None:
        return None
    words = "above noise" if comparison.above_noise else "within noise"
    return f"{words}, {format_p(comparison.adjusted_p)}"


def hyperparameters_by_ratio(summaries: list[RatioSummary]) -> dict[str, list[Record | None]]:
    """key -> for each summary its entry of `best_hyperparameters` in the search record."""
    by_ratio = [summary.cid_search.get("best_hyperparameters") or {} for summary in summaries]
    keys = dict.fromkeys(key for found in by_ratio for key in found)
    return {key: [found.get(key) for found in by_ratio] for key in keys}
