"""Rows -> what a user decides by: at each label ratio the methods side by side, differences, and a verdict in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cid_ray.results.record import Row, of_event

METHODS = {
    "supervised": "supervised only",
    "pool_bn": "supervised, pool through batch norm",
    "mean_teacher": "mean teacher",
    "cid": "CID",
}
CAUTION = (
    "One seed and one label draw each: the spread between seeds was not measured here. Published runs of this field "
    "spread by 0.1 to 0.7 mIoU (standard deviation); with few labels and short training expect more."
)


@dataclass
class RatioSummary:
    """One label ratio: the finished run of every method (for CID the best on val), and how its search went."""

    ratio: str
    name: str  # "1/16 (23)"
    label_count: int
    metric: str  # "val/miou_teacher" or "val/miou": which network is scored
    finals: dict[str, Row] = field(default_factory=dict)
    rungs: dict[str, list[Row]] = field(default_factory=dict)  # run -> its curve
    ended: dict[str, str] = field(default_factory=dict)  # run -> complete, pruned, failed
    search: Row = field(default_factory=dict)

    def score(self, method: str, split: str, prefix: str = "") -> float | None:
        """mIoU in percent of the last step (prefix "") or of the best-on-val step (prefix "best/")."""
        key = f"{prefix}{split}/{self.metric.partition('/')[2]}"
        return self.finals[method].get(key) if method in self.finals else None

    def gain(self, over: str, split: str = "test", of: str = "cid") -> float | None:
        mine, theirs = self.score(of, split), self.score(over, split)
        return None if mine is None or theirs is None else mine - theirs

    def verdict(self) -> str:
        """One or two sentences a user can act on; never more than these rows can carry."""
        scored = {m: s for m in METHODS if (s := self.score(m, "test")) is not None}
        on = str(next(iter(self.finals.values()), {}).get("held_out", "test"))
        if "supervised" not in scored or len(scored) < 2:
            return "Not enough finished runs to compare methods."
        unfinished = "" if "cid" in scored or not self.search else " No CID trial has reached full length yet."
        base = scored.pop("supervised")
        best = max(scored, key=lambda m: scored[m])
        if scored[best] <= base:
            return (
                f"On this budget the pool does not pay: supervised only has {base:.2f} on {on}, the best use of the "
                f"pool ({METHODS[best]}) {scored[best]:.2f}. Leave it out, or train longer first.{unfinished}"
            )
        text = (
            f"Best on {on}: {METHODS[best]} with {scored[best]:.2f}, {scored[best] - base:+.2f} over supervised only."
        )
        if "cid" in scored and best != "cid":
            return (
                f"{text} CID's relation and style terms do not pay over it here ({scored['cid'] - scored[best]:+.2f})."
            )
        others = [f"{scored['cid'] - scored[m]:+.2f} over {METHODS[m]}" for m in scored if m != "cid"]
        return f"{text} CID is {', '.join(others)}." if "cid" in scored and others else text + unfinished


def summarize(rows: Iterable[Row], metric: str = "val/miou_teacher") -> list[RatioSummary]:
    """One summary per ratio, fewest labels first; `metric` says whose scores are shown, teacher's or student's."""
    rows = list(rows)
    found: dict[str, RatioSummary] = {}
    searches = {row["ratio"]: row for row in of_event(rows, "search")}
    ended = {row["run"]: row["state"] for row in of_event(rows, "trial")}
    for row in rows:
        if row.get("event") not in ("rung", "final"):
            continue
        search = searches.get(row["ratio"], {})
        summary = found.setdefault(
            row["ratio"],
            RatioSummary(row["ratio"], row["ratio_name"], row["label_count"], metric, search=search),
        )
        if row["event"] == "rung":
            summary.rungs.setdefault(row["run"], []).append(row)
            summary.ended[row["run"]] = ended.get(row["run"], "running")
        elif row["method"] != "cid" or not search or row["run"] == search.get("best"):
            summary.finals[row["method"]] = row
    return sorted(found.values(), key=lambda s: s.label_count)


def table(summaries: list[RatioSummary]) -> list[dict[str, Any]]:
    """The main table as plain values: one line per ratio and method; None where nothing was measured."""
    lines = []
    for summary in summaries:
        for method in METHODS:
            if method not in summary.finals:
                continue
            row = summary.finals[method]
            lines.append(
                {
                    "ratio": summary.name,
                    "method": METHODS[method],
                    "baseline": method != "cid",
                    "val": summary.score(method, "val"),
                    "test": summary.score(method, "test"),
                    "over_supervised": summary.gain("supervised", of=method) if method != "supervised" else None,
                    "best_on_val_step": row.get("best/step"),
                    "best_on_val_test": summary.score(method, "test", "best/"),
                    "held_out": row.get("held_out", "test"),
                    "seconds": row["seconds"],
                    "run": row["run"],
                }
            )
    return lines


def run_method(summary: RatioSummary, run: str) -> str:
    return str(summary.rungs[run][0]["method"])
