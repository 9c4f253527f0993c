"""What a team with few labels asks, answered from records: what the pool is worth in labels, how
many labels a target needs, what to spend on next, and how hyperparameters move with the labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cid_ray.config import InputError
from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.hyperparameters import Hyperparameter, hyperparameters
from cid_ray.results.label_plan import LabelPlan, plan_labels
from cid_ray.results.label_worth import SUPERVISED, LabelCurve, Labels, label_curve
from cid_ray.results.movements import Movement, movements
from cid_ray.results.pool_signals import Ranking, rankings
from cid_ray.results.spending import Spending, recommendation, ways_to_spend
from cid_ray.results.summary import METHOD_NAMES, RatioSummary, compared
from cid_ray.results.tries import equal_tries_text

NO_CURVE = (
    "What the pool is worth in labels cannot be told: supervised must be repeated at three ratios "
    "or more (search.supervised_ratios, search.repeats.n), and rise with the labels."
)
MIN_TARGET, MAX_TARGET = 1, 100  # below 1 % it is a fraction that was meant


@dataclass(frozen=True)
class Worth:
    """Supervised labels with the score of a method at one ratio."""

    method: str
    ratio: str
    name: str  # "1/16 (23)"
    label_count: int
    labels: Labels


@dataclass(frozen=True)
class Answers:
    """All answers of a search.

    Attributes:
        curve: the supervised label curve; None without one.
        worths: of every method that uses the pool, at every searched ratio.
        ways: to spend the next money, at the ratio with the most labels.
        movements: of hyperparameters along the label axis.
        hyperparameters: what is known of each, movements included.
        rankings: how well signals without labels rank the trials.
        tries: for each ratio where methods had different tries, what that means.
        target: the score of `needed`, in percent.
        needed: method -> labels for the target.
        plans: for each method the labels that reach the target with some chance.
    """

    curve: LabelCurve | None
    worths: list[Worth]
    ways: list[Spending]
    movements: list[Movement]
    hyperparameters: list[Hyperparameter]
    rankings: list[Ranking]
    tries: dict[str, str]
    target: float | None
    needed: dict[str, Labels]
    plans: list[LabelPlan]

    def worth_sentences(self) -> list[str]:
        """What the pool is worth with CID, else with every method; why not where there is none."""
        if self.curve is None:
            return [NO_CURVE] if self.ways or self.target is not None else []
        with_cid = [worth for worth in self.worths if worth.method == "cid"]
        return [
            f"With the pool ({METHOD_NAMES[worth.method]}), {worth.label_count} labels do the work "
            f"of {self.curve.text(worth.labels)} supervised labels{_doubt(worth)}."
            for worth in with_cid or self.worths
        ]

    def worth_table(self) -> list[tuple[str, str, str, str]]:
        """labels, method, supervised labels with the same score, how many times its own."""
        if self.curve is None:
            return []
        return [
            (
                worth.name,
                METHOD_NAMES[worth.method],
                self.curve.text(worth.labels),
                self.curve.times_text(worth.labels, worth.label_count),
            )
            for worth in self.worths
        ]

    def target_sentence(self) -> str:
        """How many labels the target needs, alone and with each method; "" without a target."""
        if self.target is None:
            return ""
        if self.curve is None:
            return f"How many labels {self.target:g} mIoU needs cannot be told for the same reason."
        alone = self.curve.text(self.needed[SUPERVISED])
        pool = [
            f"{self.curve.text(labels)} with {METHOD_NAMES[method]}"
            for method, labels in self.needed.items()
            if method != SUPERVISED
        ]
        needs = ", or ".join([f"{alone} labels with supervised only", *pool])
        return f"{self.target:g} mIoU on test needs {needs}."

    def plan_sentences(self) -> list[str]:
        """The labels to plan for the target, with each method."""
        return [plan.text(self.curve) for plan in self.plans if self.curve is not None]

    def next_sentence(self) -> str:
        return recommendation(self.ways)

    def record(self) -> dict[str, Any]:
        """Every number of the answers, for `answers.json`."""
        curve = self.curve
        return {
            "supervised_counts": list(curve.counts) if curve else [],
            "reach": list(curve.reach) if curve else [],
            "worth": [
                {
                    "method": worth.method,
                    "ratio": worth.ratio,
                    "label_count": worth.label_count,
                    "supervised_labels": self._labels_record(worth.labels),
                }
                for worth in self.worths
            ],
            "target": self.target,
            "needed": {m: self._labels_record(labels) for m, labels in self.needed.items()},
            "plans": [plan.record(curve.reach) for plan in self.plans] if curve else [],
            "ways_to_spend": [way.record() for way in self.ways],
            "movements": [asdict(movement) for movement in self.movements],
            "hyperparameters": [each.record() for each in self.hyperparameters],
            "rankings": [asdict(ranking) for ranking in self.rankings],
            "equal_tries": self.tries,
        }

    def _labels_record(self, labels: Labels) -> dict[str, Any]:
        assert self.curve is not None  # without a curve there are no labels
        reach = self.curve.reach
        return {**labels.record(reach), "beyond_reach": labels.beyond(reach)}


def answer(
    summaries: list[RatioSummary], prices: PricesConfig | None = None, target: float | None = None
) -> Answers:
    """Answer from the summaries of a search.

    Args:
        summaries: as `summarize` returns them.
        prices: the section `prices` of a configuration; None: no price is known.
        target: mIoU in percent; how many labels it needs is answered too.

    Returns:
        The answers, as numbers, sentences and a record.

    Raises:
        InputError: the target is no mIoU in percent.

    Example:
        >>> answers = answer(summarize(read_records("runs/demo")), target=52)
        >>> print(*answers.worth_sentences())
    """
    if target is not None and (problem := target_problem(target)):
        raise InputError(f"target is {target:g}, {problem}")
    prices = prices or PricesConfig()
    curve = label_curve(summaries)
    worths: list[Worth] = []
    needed: dict[str, Labels] = {}
    plans: list[LabelPlan] = []
    searched = compared(summaries)
    if curve is not None:
        for summary in summaries:
            for method in curve.methods_at(summary.label_count):
                labels = curve.worth(method, summary.label_count)
                name, count = summary.name, summary.label_count
                worths.append(Worth(method, summary.ratio, name, count, labels))
        if target is not None:
            methods = dict.fromkeys([SUPERVISED, *(worth.method for worth in worths)])
            needed = {method: curve.labels_for(target, method) for method in methods}
            have = max(summary.label_count for summary in summaries)
            plans = [plan_labels(curve, target, method, have, prices) for method in methods]
    ways = []
    if searched:
        ways = ways_to_spend(searched[-1], label_curve(summaries, "val"), prices)
    tries = {s.name: text for s in summaries if (text := equal_tries_text(s))}
    moved, ranked = movements(searched), rankings(searched)
    found = hyperparameters(searched, moved)
    return Answers(curve, worths, ways, moved, found, ranked, tries, target, needed, plans)


def target_problem(target: float) -> str:
    """Why a number is no target, with the remedy; "" of a mIoU in percent.

    Example:
        >>> target_problem(0.52)
        'must be a mIoU in percent, at least 1 and less than 100; did you mean 52?'
    """
    if MIN_TARGET <= target < MAX_TARGET:
        return ""
    is_fraction = target < MIN_TARGET <= 100 * target
    meant = f"; did you mean {100 * target:g}?" if is_fraction else ""
    return f"must be a mIoU in percent, at least {MIN_TARGET} and less than {MAX_TARGET}{meant}"


def _doubt(worth: Worth) -> str:
    return ", not shown to be more than its own" if worth.labels.low <= worth.label_count else ""
