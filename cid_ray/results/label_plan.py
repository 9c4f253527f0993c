"""How many labels to plan for a target: the chance of reaching it, and the least expected cost.

The labels that a target needs are not known, so a plan weighs what they cost against the risk of
missing it:

    cost(n) = label price * labels to buy + price of a miss * P(more than n labels are needed)

P is over the bootstrap of label_worth.py and both of its laws, for one new run with its own seed
and label draw. A sample that needs more labels than the curve can tell of counts as a miss. Where
the curve cannot tell what a method's labels are worth, there is no plan.

Source: Learn-Optimize-Collect (Mahmood et al., "Optimizing Data Collection for Machine Learning",
NeurIPS 2022; JMLR 2025).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.label_worth import LEVEL, LabelCurve, Labels
from cid_ray.results.summary import METHOD_NAMES

CHANCES = (80, 95)  # percent


@dataclass(frozen=True)
class Purchase:
    """The labels with the least expected cost.

    Attributes:
        labels: in all, with those that there are.
        more: of them to be labeled.
        usd: what labeling them costs.
        risk: of missing the target with them, in percent.
        beyond: the part of it that needs more labels than the curve can tell of, in percent.
        expected_usd: with the price of a miss times the risk.
    """

    labels: int
    more: int
    usd: float
    risk: float
    beyond: float
    expected_usd: float


@dataclass(frozen=True)
class LabelPlan:
    """The labels to plan for a target with one method.

    Attributes:
        method: key of METHOD_NAMES.
        labels: chance in percent -> labels that reach the target with it; infinity for more than
            the curve can tell of, NaN where it cannot be told.
        purchase: None without the prices of a label and of a miss.
    """

    method: str
    labels: dict[int, float]
    purchase: Purchase | None

    def text(self, curve: LabelCurve) -> str:
        """ "With CID, an 80 % chance of reaching it takes 44 labels, a 95 % chance 61."."""
        name = METHOD_NAMES[self.method]
        if any(map(math.isnan, self.labels.values())):
            return f"With {name}, the chance of reaching it cannot be told."
        likely, sure = (curve.text(Labels(count, count, count)) for count in self.labels.values())
        first, second = self.labels
        text = f"an {first} % chance of reaching it takes {likely} labels"
        if sure != likely:
            text += f", a {second} % chance {sure}"
        return f"With {name}, {text}.{self._purchase_text()}"

    def _purchase_text(self) -> str:
        one = self.purchase
        if one is None:
            return ""
        risk = f"{one.risk:.0f} %" if one.risk >= 1 else "less than 1 %"
        if one.beyond >= 1:
            risk += f" ({one.beyond:.0f} % beyond the curve)"
        have = one.labels - one.more
        if not one.more:
            return f" To label no more costs least; the risk of missing it is {risk}."
        return (
            f" To label {one.more} more ({have} there are) for ${one.usd:,.0f} costs least; the "
            f"risk of missing it is {risk}, and the expected cost ${one.expected_usd:,.0f}."
        )

    def record(self, reach: tuple[float, float]) -> dict[str, Any]:
        """Every number, for `answers.json`; labels beyond the reach are at its end."""
        labels = {
            str(chance): Labels(count, count, count).record(reach)["count"]
            for chance, count in self.labels.items()
        }
        return {
            "method": self.method,
            "labels": labels,
            "beyond_reach": [str(c) for c, count in self.labels.items() if count >= reach[1]],
            "purchase": None if self.purchase is None else vars(self.purchase),
        }


def plan_labels(
    curve: LabelCurve, target: float, method: str, have: int, prices: PricesConfig
) -> LabelPlan:
    """Plan the labels for a target.

    Args:
        curve: of the search, on test.
        target: mIoU in percent.
        method: that will be trained with them.
        have: images that are labeled already.
        prices: of a label and of a miss, in US dollars.

    Example:
        >>> plan_labels(curve, 52.0, "cid", 24, PricesConfig(label=2, miss=500)).labels
        {80: 44.0, 95: 61.0}
    """
    needed = curve.needed_by_a_run(target, method)[:2, 1:].ravel()
    told = ~np.isnan(needed)
    if told.mean() < LEVEL:
        return LabelPlan(method, dict.fromkeys(CHANCES, math.nan), None)
    needed = needed[told]
    labels = {
        chance: float(np.quantile(needed, chance / 100, method="higher")) for chance in CHANCES
    }
    purchase = None
    if prices.label is not None and prices.miss is not None:
        purchase = _cheapest(needed, have, prices.label, prices.miss)
    return LabelPlan(method, labels, purchase)


def _cheapest(needed: np.ndarray, have: int, label: float, miss: float) -> Purchase:
    """The least expected cost over all counts at which the risk changes."""
    finite = np.ceil(needed[np.isfinite(needed)])
    counts = np.unique(np.concatenate([[have], finite[finite > have]]))
    risks = 1 - np.searchsorted(np.sort(needed), counts, side="right") / len(needed)
    costs = label * (counts - have) + miss * risks
    best = int(np.argmin(costs))
    count = math.ceil(counts[best])
    risk, beyond = 100 * float(risks[best]), 100 * float(np.isinf(needed).mean())
    more = count - have
    return Purchase(count, more, label * more, risk, beyond, float(costs[best]))
