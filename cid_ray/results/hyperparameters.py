"""What a search says of each hyperparameter, in one sentence: which values are good at which ratio,
whether that moves with the labels, and how much it matters.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cid_ray.results.figure_data import scale_of_key, slices_data
from cid_ray.results.formatting import format_p, format_score
from cid_ray.results.movements import MIN_TRIALS, Movement
from cid_ray.results.noise import ALPHA, holm
from cid_ray.results.smooth_fit import (
    MIN_OF_A_MEAN,
    MeanScore,
    mean_scores,
    scores_of_choices,
)
from cid_ray.results.summary import RatioSummary

# Below, the one that matters most is named first in fewer than nine of ten searches
# (benchmarks/results/importances).
MIN_RELIABLE_TRIALS = 32


@dataclass(frozen=True)
class Importance:
    """Fraction of importance of a hyperparameter at one ratio, and the trials behind it."""

    key: str
    ratio: str
    fraction: float
    trials: int
    enough_trials: bool  # at least MIN_RELIABLE_TRIALS


@dataclass(frozen=True)
class Choices:
    """Mean scores of a choice's values at one ratio, best first.

    `p`: that values differ by chance (Kruskal and Wallis), of those with an interval, corrected by
    Holm for all choices and ratios; None with too few trials.
    """

    ratio: str
    trials: int
    means: tuple[MeanScore, ...]
    p: float | None

    @property
    def best(self) -> str | None:
        """The value whose interval is above those of all others; None where it cannot be told."""
        first, *others = self.means
        if self.p is None or self.p >= ALPHA or first.low is None:
            return None
        above = all(other.high is not None and other.high < first.low for other in others)
        return first.value if above else None

    def text(self) -> str:
        """Whether values differ, and the best one with its mean and interval.

        "values differ at 1/16 (23), p 0.01, best mean so far: class, 51.20 (50.80 to 51.60, 9
        trials)"; or that it cannot be told.
        """
        if self.p is None or self.p >= ALPHA:
            p = "" if self.p is None else f"{format_p(self.p)}, "
            return f"cannot be told at {self.ratio} ({p}{self.trials} completed trials)"
        first = next(mean for mean in self.means if mean.low is not None)
        name = "best mean so far" if self.best is None else "best choice"
        interval = f"{format_score(first.low)} to {format_score(first.high)}"
        return (
            f"values differ at {self.ratio}, {format_p(self.p)}, {name}: {first.value}, "
            f"{format_score(first.mean)} ({interval}, {first.trials} trials)"
        )

    def record(self) -> dict[str, Any]:
        """Its numbers for `answers.json`."""
        return {**asdict(self), "best": self.best}


@dataclass(frozen=True)
class Hyperparameter:
    """What is known of one: `movement` of a number, `choices` of a choice."""

    key: str
    importances: tuple[Importance, ...]
    movement: Movement | None
    choices: tuple[Choices, ...]

    def text(self) -> str:
        """One sentence."""
        importance = self._importance_text()
        if self.movement is not None:
            return f"{self.movement.text()}{importance}"
        best = "; ".join(each.text() for each in self.choices)
        return f"{self.key}: {best}{importance}"

    def _importance_text(self) -> str:
        if not self.importances:
            return ""
        values = " and ".join(
            f"{each.fraction:.2f} at {each.ratio} of {each.trials} trials"
            f"{'' if each.enough_trials else ' (not reliable)'}"
            for each in self.importances
        )
        return f"; importance {values}"

    def record(self) -> dict[str, Any]:
        """Its numbers for `answers.json`; those of `movement` are in `movements`."""
        return {
            "key": self.key,
            "importances": [asdict(each) for each in self.importances],
            "choices": [each.record() for each in self.choices],
        }


def importances_at(summary: RatioSummary) -> list[Importance]:
    """The importances of CID's search at a ratio, the largest first.

    A record of an older version does not say how many: then all completed trials were used.
    """
    record = summary.cid_search
    trials = record.get("importance_trials", {})
    complete = record.get("states", {}).get("COMPLETE", 0)
    found = []
    for key, fraction in record.get("importances", {}).items():
        number = trials.get(key, complete)
        enough = number >= MIN_RELIABLE_TRIALS
        found.append(Importance(key, summary.name, fraction, number, enough))
    return sorted(found, key=lambda each: -each.fraction)


def hyperparameters(
    summaries: list[RatioSummary], movements: list[Movement]
) -> list[Hyperparameter]:
    """Every hyperparameter that took a second value.

    Args:
        summaries: as `summarize` returns them.
        movements: of the numbers among them, as `movements` returns them.

    Example:
        >>> for each in hyperparameters(summaries, movements(summaries)):
        ...     print(each.text())
    """
    moves = {movement.key: movement for movement in movements}
    importances = [each for summary in summaries for each in importances_at(summary)]
    slices = slices_data(summaries)
    choices = _choices(
        {
            key: by_ratio
            for key, by_ratio in slices.items()
            if scale_of_key(key, [v for points in by_ratio.values() for v, _ in points], summaries)
            == "category"
        }
    )
    return [
        Hyperparameter(
            key,
            tuple(each for each in importances if each.key == key),
            moves.get(key),
            choices.get(key, ()),
        )
        for key in slices
    ]


def _choices(
    slices: dict[str, dict[str, list[tuple[Any, float]]]],
) -> dict[str, tuple[Choices, ...]]:
    """key -> its choices at each ratio; all are one family of comparisons."""
    found = [
        (key, ratio, points, _p_of_difference(points))
        for key, by_ratio in slices.items()
        for ratio, points in by_ratio.items()
    ]
    adjusted = iter(holm([p for *_, p in found if p is not None]))
    by_key: dict[str, list[Choices]] = {}
    for key, ratio, points, p in found:
        means = sorted(mean_scores(points), key=lambda mean: -mean.mean)
        corrected = None if p is None else next(adjusted)
        by_key.setdefault(key, []).append(Choices(ratio, len(points), tuple(means), corrected))
    return {key: tuple(of_key) for key, of_key in by_key.items()}


def _p_of_difference(points: list[tuple[Any, float]]) -> float | None:
    """That scores of all values with enough trials are alike; None where that is no question."""
    from scipy.stats import kruskal  # imported late: it takes seconds

    groups = [own for own in scores_of_choices(points).values() if len(own) >= MIN_OF_A_MEAN]
    different = {score for own in groups for score in own}
    if len(points) < MIN_TRIALS or len(groups) < 2 or len(different) < 2:
        return None
    return float(kruskal(*groups).pvalue)
