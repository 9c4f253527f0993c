"""Rows -> what a user decides by: at each label ratio the methods side by side, differences, and how real they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cid_ray.results.noise import METHOD, Noise, blocks
from cid_ray.results.record import Row, of_event

METHODS = {
    "supervised": "supervised only",
    "pool_bn": "supervised, pool through batch norm",
    "mean_teacher": "mean teacher",
    "cid": "CID",
}


@dataclass
class RatioSummary:
    """One label ratio: the chosen run of every method, how its search went, and the repeats of what was confirmed."""

    ratio: str
    name: str  # "1/16 (23)"
    label_count: int
    metric: str  # "val/miou_teacher" or "val/miou": which network is scored
    finals: dict[str, Row] = field(default_factory=dict)  # method -> its chosen run
    rungs: dict[str, list[Row]] = field(default_factory=dict)  # run -> its curve; never a repeat
    ended: dict[str, str] = field(default_factory=dict)  # run -> complete, pruned, failed
    trials: dict[str, Row] = field(default_factory=dict)  # run -> its final row, chosen or not; never a repeat
    searches: dict[str, Row] = field(default_factory=dict)  # method -> how its search went
    confirmed: dict[str, list[Row]] = field(default_factory=dict)  # candidate's run -> final rows of its repeats

    @property
    def search(self) -> Row:
        """How the search of CID's settings went."""
        return self.searches.get("cid", {})

    @property
    def held_out(self) -> str:
        """The split behind "test/..." scores: val where the table has no test."""
        return str(next(iter(self.finals.values()), {}).get("held_out", "test"))

    def key(self, split: str, prefix: str = "") -> str:
        return f"{prefix}{split}/{self.metric.partition('/')[2]}"

    def score(self, method: str, split: str, prefix: str = "") -> float | None:
        """mIoU in percent of the last step (prefix "") or of the best-on-val step (prefix "best/")."""
        return self.finals[method].get(self.key(split, prefix)) if method in self.finals else None

    def gain(self, over: str, split: str = "test", of: str = "cid") -> float | None:
        mine, theirs = self.score(of, split), self.score(over, split)
        return None if mine is None or theirs is None else mine - theirs

    def noise(self, split: str) -> Noise:
        """Of the repeats' scores on a split. Repeats are a pair only if they share number, seed and label draw."""
        key = self.key(split)
        return blocks(
            {
                run: {(r["pair"], r.get("seed"), r.get("draw")): r[key] for r in rows if r.get(key) is not None}
                for run, rows in self.confirmed.items()
            }
        )

    def repeated(self, noise: Noise) -> dict[str, str]:
        """method -> its chosen run, of those that were repeated."""
        chosen = {m: str(self.finals[m]["run"]) for m in METHODS if m in self.finals}
        return {m: run for m, run in chosen.items() if run in noise.scores}

    @property
    def measured(self) -> bool:
        """Whether methods can be compared by their repeats: two of them at least, and a noise floor."""
        noise = self.noise("test")
        return noise.floor is not None and len(self.repeated(noise)) > 1


def summarize(rows: Iterable[Row], metric: str = "val/miou_teacher") -> list[RatioSummary]:
    """One summary per ratio, fewest labels first; `metric` says whose scores are shown, teacher's or student's."""
    rows = list(rows)
    found: dict[str, RatioSummary] = {}
    searches: dict[str, dict[str, Row]] = {}
    for row in of_event(rows, "search"):  # the first rows had no method, or the importances' under that name
        searches.setdefault(row["ratio"], {})[row["method"] if row.get("method") in METHODS else "cid"] = row
    ended = {row["run"]: row["state"] for row in of_event(rows, "trial")}
    lost = {row["run"] for row in of_event(rows, "lost")}  # of several machines; another one's trial has the result
    for row in rows:
        if row.get("event") not in ("rung", "final") or row["run"] in lost:
            continue
        summary = found.setdefault(
            row["ratio"],
            RatioSummary(
                row["ratio"], row["ratio_name"], row["label_count"], metric, searches=searches.get(row["ratio"], {})
            ),
        )
        if row.get("confirms"):
            if row["event"] == "final":
                summary.confirmed.setdefault(row["confirms"], []).append(row)
        elif row["event"] == "rung":
            summary.rungs.setdefault(row["run"], []).append(row)
            summary.ended[row["run"]] = ended.get(row["run"], "running")
        else:
            summary.trials[row["run"]] = row
            if _is_chosen(row, summary.searches):
                summary.finals[row["method"]] = row
    return sorted(found.values(), key=lambda s: s.label_count)


def _is_chosen(row: Row, searches: dict[str, Row]) -> bool:
    """Whether its search chose this run. A method without a search has one run; CID's search may have chosen none."""
    search = searches.get(row["method"])
    if search is None or (search.get("best") is None and row["method"] != "cid"):
        return True
    return bool(row["run"] == search.get("best"))


def table(summaries: list[RatioSummary]) -> list[dict[str, Any]]:
    """The main table as plain values: one line per ratio and method; None where nothing was measured."""
    return [_line(summary, method) for summary in summaries for method in METHODS if method in summary.finals]


def _line(summary: RatioSummary, method: str) -> dict[str, Any]:
    row, noise = summary.finals[method], summary.noise("test")
    runs = summary.repeated(noise)
    run, base = runs.get(method), runs.get("supervised") if method != "supervised" else None
    gain = noise.difference(run, base) if run and base else None
    return {
        "ratio": summary.name,
        "method": METHODS[method],
        "key": method,
        "baseline": method != "cid",
        "val": summary.score(method, "val"),
        "test": summary.score(method, "test"),
        "over_supervised": summary.gain("supervised", of=method) if method != "supervised" else None,
        "best_on_val_step": row.get("best/step"),
        "best_on_val_test": summary.score(method, "test", "best/"),
        "selects": row.get("held_out_selects", row.get("held_out") == "val"),
        "seconds": row["seconds"],
        "run": row["run"],
        # of the repeats, on held-out images; `gain` is over supervised only, `floor` what it must exceed
        "mean": noise.mean(run) if run else None,
        "sd": noise.sd(run) if run else None,
        "repeats": noise.pairs if run else None,
        "gain": gain,
        "floor": noise.floor if run else None,
        "judged": judged(noise, gain),
    }


def judged(noise: Noise, difference: float | None) -> str | None:
    """A difference of means in words; None where no floor was measured."""
    within = None if difference is None else noise.within_noise(difference)
    return None if within is None else "within noise" if within else "above noise"


def noise_rows(summaries: list[RatioSummary]) -> list[Row]:
    """Rows of what the repeats say, for rows.jsonl: one per ratio and split; the same row again replaces the former."""
    found = []
    for summary in summaries:
        for split in ("val", "test"):
            noise = summary.noise(split)
            if not noise.pairs:
                continue
            runs = summary.repeated(noise)
            found.append(
                {
                    "event": "noise",
                    "run": f"{summary.ratio} {summary.key(split)}",
                    "ratio": summary.ratio,
                    "ratio_name": summary.name,
                    "label_count": summary.label_count,
                    "split": split,
                    "held_out": summary.held_out,
                    "metric": summary.key(split),
                    "n": noise.pairs,
                    "df": noise.df,
                    "chosen": runs,  # method -> run
                    "means": {run: noise.mean(run) for run in noise.scores},
                    "sds": {run: noise.sd(run) for run in noise.scores},
                    "differences": {
                        method: {over: noise.difference(runs[method], runs[over]) for over in runs if over != method}
                        for method in runs
                    },
                    "residual_variance": noise.variance,
                    "floor": noise.floor,
                    "single_run_floor": noise.single_run_floor,
                    "how": METHOD,
                }
            )
    return found


def run_method(summary: RatioSummary, run: str) -> str:
    return str(summary.rungs[run][0]["method"])


def settings_by_ratio(summaries: list[RatioSummary]) -> dict[str, list[Row | None]]:
    """setting -> for each summary what its search row says: the best trial's value, the range of the best quarter."""
    tops = [summary.search.get("top") or {} for summary in summaries]
    keys = dict.fromkeys(key for top in tops for key in top)
    return {key: [top.get(key) for top in tops] for key in keys}
