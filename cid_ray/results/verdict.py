"""The numbers in words that a user can act on; never more than the records can support.

Methods that were repeated are judged by their means on test images. A difference that chance alone
exceeds too often is "within noise", whatever its sign; Holm's correction accounts for the number of
comparisons. Where nothing was repeated, the words say
so.
"""

from __future__ import annotations

from typing import Any

from cid_ray.results.noise import Comparison, Noise
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, compared, significance

CAUTION = (
    "One seed and one label draw each: the spread between seeds was not measured here. "
    "Published runs of this field spread by 0.1 to 0.7 mIoU (standard deviation); with few labels "
    "and short training expect more. Measure it here with --set search.repeats.n=3."
)
# Rivals from which CID differs by its terms alone.
SAME_BASE = ("pool_bn", "mean_teacher")


def verdict(summary: RatioSummary) -> str:
    """Compare the methods at one label ratio.

    Args:
        summary: one element of what `summarize` returns.

    Returns:
        One to three sentences, plain text. Numbers are mIoU in percent on the test split.

    Example:
        >>> print(verdict(summarize(read_records("runs/demo"))[0]))
    """
    return _of_repeats(summary) if summary.has_noise_floor else _of_single_runs(summary)


def network_in_use(summary: RatioSummary) -> str:
    """Which of the two networks is scored and used, why, and how the other one did on val.

    "" while no run is chosen.

    Example:
        >>> print(network_in_use(summarize(read_records("runs/demo"))[0]))
    """
    method = next((m for m in reversed(METHOD_NAMES) if m in summary.chosen), None)
    if method is None:
        return ""
    keys = {"teacher": "val/miou_teacher", "student": "val/miou"}
    scores: dict[str, Any] = {name: summary.chosen[method].get(keys[name]) for name in keys}
    used = summary.network
    other = "student" if used == "teacher" else "teacher"
    if None in scores.values():
        return ""
    text = (
        f"Scored and used is the {used}, as search.metric={summary.metric} says: "
        f"{scores[used]:.2f} on val with {METHOD_NAMES[method]}, its {other} {scores[other]:.2f}."
    )
    if used == "teacher" and scores[other] > scores[used]:
        text += " The teacher is behind its student: a lower train.ema_span lets it follow faster."
    return text


def caution(summaries: list[RatioSummary]) -> str:
    """How the noise floor was measured, and CAUTION for ratios without one."""
    measured = [s for s in summaries if s.has_noise_floor]
    if not measured:
        return CAUTION
    text = " ".join(_how_measured(s) for s in measured)
    text += (
        " The floor is Fisher's least significant difference at 95 % for one comparison. Above "
        "noise means p < 0.05 after Holm's correction for all comparisons with one method at a "
        "ratio."
    )
    others = ", ".join(s.name for s in compared(summaries) if not s.has_noise_floor)
    return f"{text} {others}: {CAUTION[0].lower()}{CAUTION[1:]}" if others else text


def _how_measured(summary: RatioSummary) -> str:
    noise = summary.noise("test")
    finals = [final for run in noise.scores for final in summary.repeats[run]]
    several_draws = len({final.get("draw") for final in finals}) > 1
    fresh = "fresh seeds and label draws" if several_draws else "fresh seeds"
    return (
        f"{summary.name}: {len(noise.scores)} candidates were run {noise.num_repeats} times each "
        f"on {fresh}, the same for all candidates of a repeat; noise floor {noise.floor:.2f} with "
        f"{noise.df} degrees of freedom."
    )


def _of_repeats(summary: RatioSummary) -> str:
    noise = summary.noise("test")
    runs = summary.repeated_runs(noise)
    subject = "cid" if "cid" in runs else _best(noise, runs, [m for m in runs if m != "supervised"])
    comparisons = [
        f"{_difference_text(each.difference, method)} ({significance(each)})"
        for method, each in summary.comparisons(subject).items()
    ]
    mean, sd = noise.mean(runs[subject]), noise.sd(runs[subject])
    return (
        f"{METHOD_NAMES[subject]} has {mean:.2f} ± {sd:.2f} "
        f"on {summary.test_split} ({noise.num_repeats} repeats), {', '.join(comparisons)}. "
        f"{_advice(summary, noise, runs)}"
    )


def _advice(summary: RatioSummary, noise: Noise, runs: dict[str, str]) -> str:
    """Whether the pool pays, and whether CID's terms do, as far as the noise allows."""
    sentences = []
    uses_pool = [m for m in runs if m != "supervised"]
    if "supervised" in runs:
        best = _best(noise, runs, uses_pool)
        # one family: the best of several uses of the pool looks better than it is
        loss = summary.comparisons("supervised")[best]
        sentences.append(_pool_advice(best, -loss.difference, loss.above_noise))
    rivals = [m for m in uses_pool if m != "cid"]
    if "cid" in runs and rivals:
        rival = _best(noise, runs, rivals)
        sentences.append(_cid_advice(rival, summary.comparisons("cid")[rival]))
    return " ".join(sentences)


def _best(noise: Noise, runs: dict[str, str], methods: list[str]) -> str:
    return max(methods, key=lambda method: noise.mean(runs[method]))


def _pool_advice(best: str, gain: float, above_noise: bool) -> str:
    if not above_noise:
        return (
            "Nothing here shows that the pool pays: "
            f"its best use, {METHOD_NAMES[best]}, is within noise."
        )
    if gain < 0:
        return "On this budget the pool does not pay: leave it out, or train longer first."
    how = (
        ""
        if best == "cid"
        else f" through {METHOD_NAMES[best]}: {_difference_text(gain, 'supervised')}"
    )
    return f"The pool pays{how}."


def _cid_advice(rival: str, over_rival: Comparison) -> str:
    gain = over_rival.difference
    if not over_rival.above_noise:
        return f"CID and {METHOD_NAMES[rival]} are within noise of each other."
    if gain < 0:
        return f"{_cid_does_not(rival)} pay: {_difference_text(gain, rival)}."
    subject = "CID's terms pay" if rival in SAME_BASE else "CID pays"
    return f"{subject}: {_difference_text(gain, rival)}."


def _cid_does_not(rival: str) -> str:
    """The subject of "... pay"."""
    return "CID's relation and style terms do not" if rival in SAME_BASE else "CID does not"


def _difference_text(difference: float, method: str) -> str:
    return f"{difference:+.2f} {'over' if difference >= 0 else 'against'} {METHOD_NAMES[method]}"


def _of_single_runs(summary: RatioSummary) -> str:
    scores = {m: s for m in METHOD_NAMES if (s := summary.score(m, "test")) is not None}
    split = summary.test_split
    if "supervised" not in scores or len(scores) < 2:
        return "Not enough finished runs to compare methods."
    unfinished = ""
    if "cid" not in scores and summary.cid_search:
        unfinished = " No CID trial has completed yet."
    base = scores.pop("supervised")
    best = max(scores, key=lambda m: scores[m])
    if scores[best] <= base:
        return (
            f"On this budget the pool does not pay: supervised only has {base:.2f} on {split}, "
            f"the best use of the pool ({METHOD_NAMES[best]}) {scores[best]:.2f}. "
            f"Leave it out, or train longer first.{unfinished}"
        )
    text = (
        f"Best on {split}: {METHOD_NAMES[best]} with {scores[best]:.2f}, "
        f"{scores[best] - base:+.2f} over supervised only."
    )
    if "cid" not in scores:
        return text + unfinished
    if best != "cid":
        gap = scores["cid"] - scores[best]
        return f"{text} {_cid_does_not(best)} pay over it here ({gap:+.2f})."
    others = [
        f"{scores['cid'] - scores[m]:+.2f} over {METHOD_NAMES[m]}" for m in scores if m != "cid"
    ]
    return f"{text} CID is {', '.join(others)}." if others else text
