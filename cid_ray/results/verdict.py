"""The numbers in words that a user can act on; never more than the rows can carry.

Where methods were repeated, they are judged by their means on held-out images, and a difference that is no larger
than the noise floor is "within noise", whatever its sign. Where they were not, the words say so.
"""

from __future__ import annotations

from cid_ray.results.noise import Noise
from cid_ray.results.summary import METHODS, RatioSummary, judged

CAUTION = (
    "One seed and one label draw each: the spread between seeds was not measured here. Published runs of this field "
    "spread by 0.1 to 0.7 mIoU (standard deviation); with few labels and short training expect more. "
    "Measure it here with --set search.confirm.repeats=3."
)


def verdict(summary: RatioSummary) -> str:
    """One to three sentences."""
    return _of_repeats(summary) if summary.measured else _of_single_runs(summary)


def caution(summaries: list[RatioSummary]) -> str:
    """How the noise floor was measured, and CAUTION for what was not."""
    measured = [s for s in summaries if s.measured]
    if not measured:
        return CAUTION
    told = " ".join(_how_measured(s) for s in measured)
    told += (
        " The floor is Fisher's least significant difference at 95 % for one comparison: two means closer than that "
        "are within noise."
    )
    others = ", ".join(s.name for s in summaries if not s.measured)
    return f"{told} {others}: {CAUTION[0].lower()}{CAUTION[1:]}" if others else told


def _how_measured(summary: RatioSummary) -> str:
    noise = summary.noise("test")
    rows = [row for run in noise.scores for row in summary.confirmed[run]]
    fresh = "fresh seeds and label draws" if len({row.get("draw") for row in rows}) > 1 else "fresh seeds"
    return (
        f"{summary.name}: {len(noise.scores)} candidates were run {noise.pairs} times each on {fresh}, the same for "
        f"all candidates of a pair; noise floor {noise.floor:.2f} with {noise.df} degrees of freedom."
    )


def _of_repeats(summary: RatioSummary) -> str:
    noise = summary.noise("test")
    runs = summary.repeated(noise)
    who = "cid" if "cid" in runs else max((m for m in runs if m != "supervised"), key=lambda m: noise.mean(runs[m]))
    differences = {m: noise.difference(runs[who], runs[m]) for m in runs if m != who}
    told = []
    for number, (method, difference) in enumerate(differences.items()):
        word = judged(noise, difference)
        floor = f"noise floor {noise.floor:.2f}: " if number == 0 else ""
        told.append(f"{_against(difference, method)} ({floor}{word})")
    return (
        f"{METHODS[who]} has {noise.mean(runs[who]):.2f} ± {noise.sd(runs[who]):.2f} on {summary.held_out} "
        f"({noise.pairs} repeats), {', '.join(told)}. {_advice(noise, runs)}"
    )


def _advice(noise: Noise, runs: dict[str, str]) -> str:
    """Whether the pool pays, and whether CID's terms do, as far as the floor allows."""
    sentences = []
    pool = [m for m in runs if m != "supervised"]
    best = max(pool, key=lambda m: noise.mean(runs[m]))
    if "supervised" in runs:
        gain = noise.difference(runs[best], runs["supervised"])
        if noise.within_noise(gain):
            sentences.append(f"Nothing here shows that the pool pays: its best use, {METHODS[best]}, is within noise.")
        elif gain < 0:
            sentences.append("On this budget the pool does not pay: leave it out, or train longer first.")
        else:
            how = "" if best == "cid" else f" through {METHODS[best]}: {_against(gain, 'supervised')}"
            sentences.append(f"The pool pays{how}.")
    others = [m for m in pool if m != "cid"]
    if "cid" in runs and others:
        rival = max(others, key=lambda m: noise.mean(runs[m]))
        gain = noise.difference(runs["cid"], runs[rival])
        if noise.within_noise(gain):
            sentences.append(f"CID and {METHODS[rival]} are within noise of each other.")
        elif gain < 0:
            sentences.append(f"CID's relation and style terms do not pay: {_against(gain, rival)}.")
        else:
            sentences.append(f"CID's terms pay: {_against(gain, rival)}.")
    return " ".join(sentences)


def _against(difference: float, method: str) -> str:
    return f"{difference:+.2f} {'over' if difference >= 0 else 'against'} {METHODS[method]}"


def _of_single_runs(summary: RatioSummary) -> str:
    scored = {m: s for m in METHODS if (s := summary.score(m, "test")) is not None}
    on = summary.held_out
    if "supervised" not in scored or len(scored) < 2:
        return "Not enough finished runs to compare methods."
    unfinished = "" if "cid" in scored or not summary.search else " No CID trial has reached full length yet."
    base = scored.pop("supervised")
    best = max(scored, key=lambda m: scored[m])
    if scored[best] <= base:
        return (
            f"On this budget the pool does not pay: supervised only has {base:.2f} on {on}, the best use of the "
            f"pool ({METHODS[best]}) {scored[best]:.2f}. Leave it out, or train longer first.{unfinished}"
        )
    text = f"Best on {on}: {METHODS[best]} with {scored[best]:.2f}, {scored[best] - base:+.2f} over supervised only."
    if "cid" not in scored:
        return text + unfinished
    if best != "cid":
        return f"{text} CID's relation and style terms do not pay over it here ({scored['cid'] - scored[best]:+.2f})."
    others = [f"{scored['cid'] - scored[m]:+.2f} over {METHODS[m]}" for m in scored if m != "cid"]
    return f"{text} CID is {', '.join(others)}." if others else text
