"""Rows of a search, at any moment -> what is to be seen of it now, as plain values: `look(rows, config, pulse, now)`.

Everything stands in the rows but the present (results/pulse.py). Scores are val's: test images are for the end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cid_ray.config import Config
from cid_ray.results.record import Row, of_event
from cid_ray.results.summary import METHODS, RatioSummary, run_method, summarize

SILENT_SECONDS = 120.0  # without a pulse: a long evaluation, or the search is no more
KINDS = ("baselines", "CID, full length", "CID, pruned", "repeats", "failed", "unfinished")  # where device time goes


@dataclass
class Trial:
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
class Best:
    """A method's best so far at one ratio: of full length if there is one, else the furthest."""

    method: str
    run: str
    value: float
    step: int
    steps: int
    over: float | None = None  # supervised only; both of full length

    @property
    def full(self) -> bool:
        return self.step >= self.steps


@dataclass
class RatioNow:
    ratio: str
    name: str  # "1/16 (23)"
    summary: RatioSummary | None  # None before its first rung
    states: Counter[str]  # of its CID trials
    wanted: int  # CID trials
    running: list[Trial] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)  # image_id, image, label, and method -> (path, step)
    seconds: dict[str, float] = field(default_factory=dict)  # kind -> device-seconds


@dataclass
class Fault:
    kind: str  # failed, lost, retried, warning, unreadable
    run: str
    text: str


@dataclass
class Now:
    state: str  # running, closing, silent, killed, stopped, finished, unknown
    done: int
    total: int | None
    eta: float | None  # seconds
    seconds: float  # device-seconds in all
    ratios: list[RatioNow]
    faults: list[Fault]
    reason: str = ""
    silent: float = 0.0  # seconds since its last pulse

    @property
    def running(self) -> list[Trial]:
        return [trial for ratio in self.ratios for trial in ratio.running]


def look(rows: list[Row], config: Config, pulse: dict[str, Any], now: float) -> Now:
    """What rows and pulse say at the time `now` (seconds since 1970)."""
    summaries = {s.ratio: s for s in summarize(rows, config.search.metric)}
    ended = {row["run"]: row for row in of_event(rows, "trial")}
    searched = bool(pulse or ended)
    asked = config.search.ratios if searched else ()  # one run of `train` has a ratio of its own
    state = _state(rows, pulse, now, len(ended))
    live = pulse.get("running", {}) if state in ("running", "silent") else {}
    spent = device_seconds(rows, live)
    ratios = [
        _ratio(ratio, summaries.get(ratio), ended, config.search.trials if searched else 0, live)
        for ratio in dict.fromkeys([*summaries, *asked])
    ]
    for ratio in ratios:
        ratio.seconds = kinds(rows, ratio.ratio, ended, spent)
    return Now(
        state, len(ended), pulse.get("total"), eta(pulse, ended, now) if live else None, sum(spent.values()), ratios,
        faults(rows), pulse.get("reason", ""), max(0.0, now - pulse.get("at", now)),
    )  # fmt: skip


def _state(rows: list[Row], pulse: dict[str, Any], now: float, done: int) -> str:
    if not pulse:  # a run of before there were pulses, or one of `train`
        over = of_event(rows, "search") or (of_event(rows, "final") and not done)
        return "finished" if over else "unknown"
    if pulse["state"] == "stopped" or (pulse["state"] == "closed" and done < pulse["total"]):
        return "stopped"
    if pulse["state"] == "closed":
        return "finished"
    if pulse.get("gone"):
        return "killed"
    if now - pulse["at"] > SILENT_SECONDS:
        return "silent"
    return "running" if done < pulse["total"] else "closing"


def eta(pulse: dict[str, Any], ended: dict[str, Row], now: float) -> float | None:
    """Seconds until all trials have ended, at the pace since this start of the search; None before the first end."""
    done = len(ended) - pulse["ended_before"]
    last = max((row.get("at", 0.0) for row in ended.values()), default=0.0)
    if done < 1 or last <= pulse["began"]:
        return None
    pace = (last - pulse["began"]) / done
    return max(0.0, pace * (pulse["total"] - len(ended)) - (now - last))


def device_seconds(rows: list[Row], live: dict[str, Row]) -> dict[str, float]:
    """run -> seconds of training and scoring, over all its workers and restarts."""
    spent: dict[str, float] = {}
    for row in rows:
        if row.get("event") in ("rung", "final"):
            spent[row["run"]] = max(spent.get(row["run"], 0.0), row.get("seconds", 0.0) * row.get("workers", 1))
    for run, row in live.items():
        spent[run] = max(spent.get(run, 0.0), row.get("seconds", 0.0))
    return spent


def kinds(rows: list[Row], ratio: str, ended: dict[str, Row], spent: dict[str, float]) -> dict[str, float]:
    """What the device-seconds of one ratio went into."""
    found = dict.fromkeys(KINDS, 0.0)
    known = {row["run"]: row for row in rows if row.get("event") in ("rung", "final") and row["ratio"] == ratio}
    for run, row in known.items():
        how = ended[run]["state"] if run in ended else "complete" if row["event"] == "final" else "unfinished"
        if how in ("failed", "unfinished"):
            kind = how
        elif row.get("confirms"):
            kind = "repeats"
        elif row["method"] != "cid":
            kind = "baselines"
        else:
            kind = "CID, pruned" if how == "pruned" else "CID, full length"
        found[kind] += spent[run]
    return found


def faults(rows: list[Row]) -> list[Fault]:
    """Everything that went wrong, in the order it was told; a warning that several trials gave stands once."""
    found: dict[tuple[str, str], Fault] = {}
    for row in rows:
        run, told = str(row.get("run", "")), []
        if row.get("event") == "trial" and row["state"] == "failed":
            found[("failed", run)] = Fault("failed", run, row["reason"])
        elif row.get("event") == "lost":
            found[("lost", run)] = Fault("lost", run, row["reason"])
        elif row.get("event") == "retried":
            found[(row["name"], run)] = Fault("retried", run, row["reason"])
        elif row.get("event") == "warning":
            told = [row["name"]]
        elif row.get("event") == "rung":
            told = [row["warning"]] if row.get("warning") else []
            if row.get("unreadable"):
                names = ", ".join(row["unreadable_ids"])
                found[("unreadable", run)] = Fault("unreadable", run, f"{row['unreadable']} pool images: {names}")
        elif row.get("event") == "final":
            told = row.get("warnings", [])
        for text in told:  # a rung's row joins several
            if not any(text in other for kind, other in found if kind == "warning"):
                found["warning", text] = Fault("warning", run, text)
    return list(found.values())


def _ratio(
    ratio: str, summary: RatioSummary | None, ended: dict[str, Row], wanted: int, live: dict[str, Row]
) -> RatioNow:
    states = Counter[str]()
    for run, how in (summary.ended if summary else {}).items():
        if summary and run_method(summary, run) == "cid" and run not in live and how != "running":
            states[how] += 1
    early = [run for run, row in ended.items() if _failed_before_a_rung(run, row, ratio, summary)]
    states["failed"] += len(early)
    states["running"] = sum(r["ratio"] == ratio and r["method"] == "cid" and not r["confirms"] for r in live.values())
    found = RatioNow(ratio, summary.name if summary else ratio, summary, +states, wanted)
    found.running = [_trial(run, row, summary) for run, row in live.items() if row["ratio"] == ratio]
    if summary:
        found.best = best(summary)
        found.pictures = pictures(summary, found.best)
    return found


def _failed_before_a_rung(run: str, row: Row, ratio: str, summary: RatioSummary | None) -> bool:
    """A trial without rungs has no ratio in the rows but in its name (search/arms.py)."""
    own = run.startswith(f"{ratio.replace('/', '_')}-cid-") and "-pair" not in run
    return own and row["state"] == "failed" and (summary is None or run not in summary.rungs)


def _trial(run: str, row: Row, summary: RatioSummary | None) -> Trial:
    rungs = summary.rungs.get(run, []) if summary else []
    return Trial(
        run, row["method"], row.get("step", 0), row["steps"], row.get("losses") or {}, row.get("images_per_s"),
        row.get("seconds", 0.0), rungs[-1][summary.metric] if summary and rungs else None, row["params"],
    )  # fmt: skip


def best(summary: RatioSummary) -> list[Best]:
    """Every method's best on val so far. A longer run comes before a better one: curves still rise."""
    found: dict[str, Best] = {}
    for run, rungs in summary.rungs.items():
        last, method = rungs[-1], run_method(summary, run)
        value = last[summary.metric]
        if value is None or summary.ended[run] == "failed":
            continue
        one, former = Best(method, run, value, last["step"], last["steps"]), found.get(method)
        if former is None or (one.step / one.steps, one.value) > (former.step / former.steps, former.value):
            found[method] = one
    base = found.get("supervised")
    for method, one in found.items():
        if base and base.full and one.full and method != "supervised":
            one.over = one.value - base.value
    return [found[method] for method in METHODS if method in found]


def pictures(summary: RatioSummary, bests: list[Best]) -> list[dict[str, Any]]:
    """For each val image that is shown: image, label, newest predictions of supervised only and of the best CID."""
    by_image: dict[str, dict[str, Any]] = {}
    for one in bests:
        if one.method not in ("supervised", "cid"):
            continue
        row = summary.rungs[one.run][-1]
        for sample in row.get("samples") or []:
            entry = by_image.setdefault(sample["image_id"], {"image_id": sample["image_id"], "predictions": []})
            entry |= {"image": sample["image"], "label": sample["label"]}
            entry["predictions"].append((one.method, one.run, row["step"], sample["prediction"]))
    return list(by_image.values())
