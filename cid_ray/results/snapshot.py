"""A search at one moment, as plain values for the live pages.

Records say what was measured; `status.json` says what runs now (status.py). Both may come from a
search that runs, has stopped or was killed. Scores are on val: test images are scored at the end
only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cid_ray.config import Config
from cid_ray.results.device_time import device_seconds, seconds_by_kind
from cid_ray.results.issues import Issue, find_issues
from cid_ray.results.progress import remaining_seconds
from cid_ray.results.records import Record, of_event
from cid_ray.results.status import lost_records
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, RunScore, best_of, summarize

# An evaluation of a large val split writes no status for a while, so the limit is generous.
HEARTBEAT_TIMEOUT_S = 120.0


@dataclass
class RunningTrial:
    """A trial that is running."""

    run: str
    method: str
    step: int
    steps: int
    losses: dict[str, float | None]
    images_per_s: float | None
    seconds: float
    value: float | None  # val mIoU at its last rung
    params: dict[str, Any]


@dataclass
class BestRun:
    """The best run of a method so far: a completed one if there is one, else the furthest."""

    score: RunScore
    over_supervised: float | None  # None unless both have completed


@dataclass
class Prediction:
    """A run's newest prediction of one sample image; `path` is relative to the run folder."""

    method: str
    run: str
    step: int
    path: str


@dataclass
class SampleImage:
    """A val image with its label; paths are relative to the run folder."""

    image_id: str
    image: str
    label: str
    predictions: list[Prediction] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [self.image, self.label, *(prediction.path for prediction in self.predictions)]


@dataclass
class RatioSnapshot:
    """One label ratio at this moment."""

    ratio: str
    name: str  # "1/16 (23)"; before the first rung the ratio alone
    summary: RatioSummary | None  # None before the first rung
    num_trials: int  # CID trials requested
    states: Counter[str]  # state -> CID trials
    running: list[RunningTrial]
    best_runs: list[BestRun]
    sample_images: list[SampleImage]
    seconds: dict[str, float]  # kind of device_time.TIME_KINDS -> device-seconds


@dataclass
class SearchSnapshot:
    """A search at this moment."""

    # running, finalizing (all trials are finished, the winners are tested), no_heartbeat, killed,
    # stopped, finished or unknown
    state: str
    finished: int  # trials
    total: int | None  # trials; None without a status
    eta: float | None  # seconds; None while there is no pace yet
    seconds: float  # device-seconds of all runs
    ratios: list[RatioSnapshot]
    issues: list[Issue]
    reason: str  # why the search stopped early, else ""
    heartbeat_age: float  # seconds since the status was written
    problems: list[str] = field(default_factory=list)  # what of the run folder is damaged

    @property
    def running(self) -> list[RunningTrial]:
        return [trial for ratio in self.ratios for trial in ratio.running]


def snapshot(
    records: list[Record], config: Config, status: dict[str, Any], now: float
) -> SearchSnapshot:
    """What records and status say about a search at one moment.

    Args:
        records: as `read_records` returns them.
        config: the configuration of the search.
        status: as `read_status` returns it, {} where there is none.
        now: seconds since 1970.

    Returns:
        Plain values; times in seconds, scores in percent.

    Raises:
        KeyError: a record lacks a field of its event.

    Example:
        >>> folder = Path("runs/demo")
        >>> config = load_config(folder / "config.yaml")
        >>> search = snapshot(read_records(folder), config, read_status(folder), time.time())
        >>> print(search.state, search.finished, search.total)
    """
    summaries = {summary.ratio: summary for summary in summarize(records, config.search.metric)}
    finished = {record["run"]: record for record in of_event(records, "trial")}
    state = _state(records, status, now, len(finished))
    may_run = state in ("running", "no_heartbeat")
    running = status.get("running", {}) if may_run else {}
    spent = device_seconds(records, running)
    # While it runs, its files may be read at different moments.
    missing = "" if may_run else lost_records(records, status)
    # A run of `train` has the same folder layout, but its `search` section means nothing.
    searched = config.search.ratios if status or finished else ()
    curve = config.search.supervised_ratios if searched else ()
    ratios = [
        RatioSnapshot(
            ratio=ratio,
            name=summary.name if (summary := summaries.get(ratio)) else ratio,
            summary=summary,
            num_trials=config.search.trials if ratio in searched else 0,
            states=_cid_states(ratio, summary, finished, running),
            running=_running_trials(ratio, summary, running),
            best_runs=best_runs(summary) if summary else [],
            sample_images=sample_images(summary) if summary else [],
            seconds=seconds_by_kind(records, ratio, finished, spent),
        )
        for ratio in dict.fromkeys([*summaries, *searched, *curve])
    ]
    return SearchSnapshot(
        state=state,
        finished=len(finished),
        total=status.get("total"),
        eta=estimate_eta(status, finished, now) if running else None,
        seconds=sum(spent.values()),
        ratios=ratios,
        issues=find_issues(records),
        reason=status.get("reason", ""),
        heartbeat_age=max(0.0, now - status.get("timestamp", now)),
        problems=[missing] if missing else [],
    )


def _state(records: list[Record], status: dict[str, Any], now: float, finished: int) -> str:
    if not status:  # a run of `train`, or records that were published without their status
        is_over = of_event(records, "search") or (of_event(records, "final") and not finished)
        return "finished" if is_over else "unknown"
    all_finished = finished >= status["total"]
    if status["state"] == "stopped":
        return "stopped"
    if status["state"] == "closed":
        return "finished" if all_finished else "stopped"
    if status["gone"]:
        return "killed"
    if now - status["timestamp"] > HEARTBEAT_TIMEOUT_S:
        return "no_heartbeat"
    return "finalizing" if all_finished else "running"


def estimate_eta(status: dict[str, Any], finished: dict[str, Record], now: float) -> float | None:
    """Seconds until all trials are finished, at the pace since this start of the search.

    The pace is taken at the last trial that finished, so the estimate counts down between two of
    them.
    """
    done = len(finished) - status["finished_before"]
    last = max((record.get("timestamp", 0.0) for record in finished.values()), default=0.0)
    if last <= status["started"]:
        return None
    left = status["total"] - len(finished)
    remaining = remaining_seconds(last - status["started"], done, done + left)
    return None if remaining is None else max(0.0, remaining - (now - last))


def _cid_states(
    ratio: str,
    summary: RatioSummary | None,
    finished: dict[str, Record],
    running: dict[str, Record],
) -> Counter[str]:
    """State -> number of CID trials, repeats not counted."""
    states = Counter[str]()
    rungs = summary.rungs if summary else {}
    for run, state in (summary.states if summary else {}).items():
        # a trial that neither runs nor has finished was interrupted: it has no state to show
        if rungs[run][0]["method"] == "cid" and run not in running and state != "running":
            states[state] += 1
    # a trial that failed before its first rung has no rung record, only its trial record
    states["failed"] += sum(
        _is_cid_trial(record, ratio) and record["state"] == "failed" and run not in rungs
        for run, record in finished.items()
    )
    states["running"] = sum(_is_cid_trial(position, ratio) for position in running.values())
    return +states


def _is_cid_trial(record: Record, ratio: str) -> bool:
    is_repeat = bool(record["repeats_of"])
    return record["ratio"] == ratio and record["method"] == "cid" and not is_repeat


def _running_trials(
    ratio: str, summary: RatioSummary | None, running: dict[str, Record]
) -> list[RunningTrial]:
    trials = []
    for run, position in running.items():
        if position["ratio"] != ratio:
            continue
        rungs = summary.rungs.get(run, []) if summary else []
        trials.append(
            RunningTrial(
                run=run,
                method=position["method"],
                step=position.get("step", 0),
                steps=position["steps"],
                losses=position.get("losses") or {},
                images_per_s=position.get("images_per_s"),
                seconds=position.get("seconds", 0.0),
                value=rungs[-1][summary.metric] if summary and rungs else None,
                params=position["params"],
            )
        )
    return trials


def best_runs(summary: RatioSummary) -> list[BestRun]:
    """The best run of every method so far, on val; failed runs are left out."""
    scores = [score for score in summary.last_scores() if summary.states[score.run] != "failed"]
    best = {method: best_of(s for s in scores if s.method == method) for method in METHOD_NAMES}
    supervised = best["supervised"]
    found = []
    for method, score in best.items():
        if score is None:
            continue
        over = None
        if method != "supervised" and supervised and supervised.full_length and score.full_length:
            over = score.value - supervised.value
        found.append(BestRun(score, over))
    return found


def sample_images(summary: RatioSummary) -> list[SampleImage]:
    """Val images with the newest predictions of the best supervised and the best CID run."""
    by_image: dict[str, SampleImage] = {}
    for best in best_runs(summary):
        score = best.score
        if score.method not in ("supervised", "cid"):
            continue
        newest = summary.rungs[score.run][-1]
        for sample in newest.get("samples") or []:
            image_id = sample["image_id"]
            entry = by_image.setdefault(
                image_id, SampleImage(image_id, sample["image"], sample["label"])
            )
            prediction = Prediction(
                score.method, score.run, newest["step"], path=sample["prediction"]
            )
            entry.predictions.append(prediction)
    return list(by_image.values())
