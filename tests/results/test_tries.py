"""Laws of equal tries; references: all subsets, and random draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from cid_ray.results.records import Record
from cid_ray.results.summary import RatioSummary, summarize
from cid_ray.results.tries import (
    at_equal_tries,
    best_of_tries,
    equal_tries_text,
    is_tuned,
    scores_of_tries,
)
from cid_ray.results.tries_figure import draw_tries
from tests.helpers.records import finished, rung, search

SCORES = [44.0, 51.5, 51.0, 39.5, 51.0, 47.25]


@pytest.mark.parametrize("tries", range(1, len(SCORES) + 1))
def test_best_of_tries_equals_the_mean_over_all_subsets(tries: int) -> None:
    bests = [max(subset) for subset in combinations(SCORES, tries)]
    found = best_of_tries(SCORES, tries)
    assert found.mean == pytest.approx(np.mean(bests))
    assert found.low == np.quantile(bests, 0.025, method="inverted_cdf")
    assert found.high == np.quantile(bests, 0.975, method="inverted_cdf")


def test_best_of_tries_is_unbiased_for_random_tries() -> None:
    """The mean over many searches of 6 tries is that of the best of 3 new tries."""
    rng = np.random.default_rng(0)
    searches = rng.normal(50, 2, (4000, 6))
    estimates = [best_of_tries(scores, 3).mean for scores in searches.tolist()]
    truth = rng.normal(50, 2, (200_000, 3)).max(1).mean()
    assert np.mean(estimates) == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize("tries", [0, 7])
def test_best_of_more_tries_than_there_are_is_refused(tries: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 6, got {tries}"):
        best_of_tries(SCORES, tries)


def searched(method: str, values: list[float], **fixed: float) -> list[Record]:
    """Trials of a method whose weight is searched, or is fixed."""
    found: list[Record] = []
    for number, value in enumerate(values):
        params = {"loss.pseudo_weight": 0.1 * (number + 1)} | fixed
        found.append(rung(method, 16, number, 10, value, params=params))
        found.append(finished(method, 16, number))
    return found


def summary_of(records: list[Record]) -> RatioSummary:
    (summary,) = summarize(records)
    return summary


def test_methods_with_different_tries_are_compared_at_the_fewest() -> None:
    summary = summary_of(searched("supervised", [46.0]) + searched("cid", [40.0, 50.0, 45.0]))
    equal = at_equal_tries(summary)
    assert equal["supervised"].mean == 46.0
    assert (equal["cid"].mean, equal["cid"].low, equal["cid"].high) == (45.0, 40.0, 50.0)
    text = equal_tries_text(summary)
    assert text.startswith("Tries differ: supervised only 1, CID 3. At 1 try each ")
    assert "supervised only 46.00, CID 45.00 (40.00 to 50.00)." in text


def test_equal_tries_need_no_words() -> None:
    summary = summary_of(searched("supervised", [46.0, 44.0]) + searched("cid", [40.0, 50.0]))
    assert at_equal_tries(summary) == {} and equal_tries_text(summary) == ""


def test_method_with_nothing_to_tune_takes_no_tries_from_the_others() -> None:
    records = searched("supervised", [46.0])
    records += searched("mean_teacher", [44.0, 48.0]) + searched("cid", [40.0, 50.0])
    assert "Tries differ: supervised only 1" in equal_tries_text(summary_of(records))
    fixed = search("supervised", 16, None, hyperparameters=[])
    assert equal_tries_text(summary_of([*records, fixed])) == ""
    more = summary_of([*records, *searched("cid", [40.0, 50.0, 60.0])[4:], fixed])
    equal = at_equal_tries(more)
    assert equal["supervised"].mean == 46.0 and equal["cid"].tries == 2
    assert "Tries differ: mean teacher 2, CID 3. At 2 tries each" in equal_tries_text(more)


def test_what_is_tuned_is_known_before_the_search_has_ended() -> None:
    """Supervised has the fixed values of the space and none that is searched."""
    records = [
        rung("supervised", 16, 0, 10, 46.0, params={"train.ema_span": 0.5}),
        finished("supervised", 16),
        rung("pool_bn", 16, 0, 10, 46.0, params={}),
        finished("pool_bn", 16),
        *searched("mean_teacher", [48.0], **{"train.ema_span": 0.5}),
        *searched("cid", [40.0, 50.0], **{"train.ema_span": 0.5}),
    ]
    summary = summary_of(records)
    tuned = [method for method in scores_of_tries(summary) if is_tuned(summary, method)]
    assert summary.searches == {} and tuned == ["mean_teacher", "cid"]
    assert equal_tries_text(summary).startswith("Tries differ: mean teacher 1, CID 2. At 1 try")
    first = summary_of(records[:4])
    assert not is_tuned(first, "supervised") and not is_tuned(first, "pool_bn")
    ended = summary_of([*records, search("supervised", 16, None, hyperparameters=["optim.lr"])])
    assert is_tuned(ended, "supervised")


def test_figure_has_a_line_for_each_method_and_a_panel_for_each_ratio() -> None:
    records = searched("supervised", [46.0]) + searched("cid", [40.0, 50.0, 45.0])
    fixed = search("supervised", 16, None, hyperparameters=[])
    svg = draw_tries([summary_of([*records, fixed])])
    assert svg is not None
    for text in ("1/16 (16)", "supervised only", ">CID<", "expected best val mIoU, %"):
        assert text in svg
    assert draw_tries([summary_of(searched("supervised", [46.0]))]) is None


def test_failed_trials_are_no_tries_and_pruned_ones_are() -> None:
    records = searched("cid", [40.0, 50.0])
    records[3]["state"] = "failed"
    assert scores_of_tries(summary_of(records)) == {"cid": [40.0]}
    records[3]["state"] = "pruned"
    assert scores_of_tries(summary_of(records)) == {"cid": [40.0, 50.0]}


def test_pruned_trial_gets_what_completed_ones_gained_after_its_step() -> None:
    records = [rung("cid", 16, 0, 5, 40.0), *searched("cid", [44.0])]
    records += [rung("cid", 16, 1, 5, 41.0), *searched("cid", [0.0, 47.0])[2:]]
    records += [rung("cid", 16, 2, 5, 38.0), finished("cid", 16, 2, state="pruned")]
    assert scores_of_tries(summary_of(records)) == {"cid": [44.0, 47.0, 38.0 + (4.0 + 6.0) / 2]}
