"""Signals without labels: tau is SciPy's, its interval covers, chance is rarely above noise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy import stats

from cid_ray.results.pool_signals import (
    MIN_TRIALS,
    Ranking,
    class_share_table,
    health_table,
    ranking_sentence,
    ranking_table,
    rankings,
    signals_of,
)
from cid_ray.results.records import Record
from cid_ray.results.summary import summarize
from tests.helpers.records import POOL_SIGNALS, STEPS, final, rung


def trials(
    count: int, seed: int, noise: float | None, method: str = "mean_teacher"
) -> tuple[list[Record], np.ndarray, np.ndarray]:
    """Trials whose agreement follows val mIoU up to noise; None: it has nothing to do with it."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(40, 60, count)
    agreement = rng.uniform(40, 60, count)
    if noise is not None:
        agreement = scores + rng.normal(0, noise, count)
    records = [
        rung(method, 16, k, STEPS, score, pool_signals={**POOL_SIGNALS, "agreement": value})
        for k, (score, value) in enumerate(zip(scores.tolist(), agreement.tolist(), strict=True))
    ]
    return records, scores, agreement


def ranked(records: list[Record]) -> dict[str, Ranking]:
    return {each.signal: each for each in rankings(summarize(records))}


def test_tau_is_scipys_and_constant_signals_have_none() -> None:
    records, scores, agreement = trials(12, 0, 2.0)
    found = ranked(records)
    assert set(found) == {"agreement"}  # the other signals of these records never change
    one = found["agreement"]
    assert one.tau == pytest.approx(stats.kendalltau(agreement, scores).statistic)
    assert one.p == pytest.approx(stats.kendalltau(agreement, scores).pvalue, abs=0.01)
    assert one.low < one.tau < one.high and one.trials == 12 and one.above_noise


def test_reversed_signal_is_minus_one_and_said_to_be_in_reverse() -> None:
    records, _, _ = trials(10, 0, 0.0)
    for record in records:
        record["pool_signals"]["confidence"] = 100 - record["pool_signals"]["agreement"]
        record["pool_signals"]["agreement"] = 50.0
    (found,) = rankings(summarize(records))
    assert found.signal == "confidence" and found.tau == pytest.approx(-1.0)
    assert "'mean confidence' ranks trials most like val in reverse" in ranking_sentence([found])


def test_calibration_error_needs_labels_and_is_in_no_sentence() -> None:
    records, _, _ = trials(10, 0, 0.0)
    for record in records:
        record["val/ece_teacher"] = 100 - record["pool_signals"]["agreement"]
        record["pool_signals"]["agreement"] = 50.0
    (found,) = rankings(summarize(records))
    assert found.signal == "ece" and found.tau == pytest.approx(-1.0)
    assert ranking_sentence([found]) == ""


def test_signal_that_only_tells_methods_apart_ranks_no_trials() -> None:
    """Both methods have 20 points between them, in signal and score, and chance within."""
    false = []
    for seed in range(30):
        records, _, _ = trials(10, seed, None)
        better, _, _ = trials(10, 100 + seed, None, method="cid")
        for record in better:
            record["val/miou_teacher"] += 20
            record["pool_signals"]["agreement"] += 20
        (one,) = rankings(summarize(records + better))
        assert one.trials == 20
        false.append(one.above_noise)
    assert np.mean(false) <= 0.1


def test_interval_holds_the_true_tau() -> None:
    """The truth is that of many trials."""
    noise = 3.0
    _, scores, agreement = trials(4000, 1, noise)
    truth = stats.kendalltau(agreement, scores).statistic
    hits = 0
    for seed in range(40):
        one = ranked(trials(30, 100 + seed, noise)[0])["agreement"]
        hits += one.low <= truth <= one.high
    assert hits >= 34  # 0.95 * 40 is 38


def test_chance_is_rarely_above_noise() -> None:
    false = [ranked(trials(12, seed, None)[0])["agreement"].above_noise for seed in range(60)]
    assert np.mean(false) <= 0.1


def test_too_few_trials_and_old_records_have_no_ranking() -> None:
    assert ranked(trials(MIN_TRIALS - 1, 0, 0.0)[0]) == {}
    assert set(ranked(trials(MIN_TRIALS, 0, 0.0)[0])) == {"agreement"}
    old = trials(12, 0, 0.0)[0]
    for record in old:
        del record["pool_signals"], record["val/ece_teacher"]
    assert set(ranked(old)) == set() and ranking_sentence([]) == ""


def test_pruned_trials_and_repeats_are_left_out() -> None:
    records, _, _ = trials(10, 0, 0.0)
    pruned = rung("mean_teacher", 16, 20, STEPS // 2, 10.0)
    assert ranked([*records, pruned])["agreement"].trials == 10
    repeat = rung("mean_teacher", 16, 21, STEPS, 10.0, repeats_of="a", repeat_index=1)
    assert ranked([*records, repeat])["agreement"].trials == 10


def test_mask_ratio_counts_only_where_there_are_pseudo_labels() -> None:
    assert signals_of(rung("cid", 16, 0, STEPS, 50.0))["mask_ratio"] == 50.0
    assert "mask_ratio" not in signals_of(rung("supervised", 16, 0, STEPS, 50.0))


def test_sentence_and_table_say_what_is_above_noise() -> None:
    found = rankings(summarize(trials(12, 0, 0.5)[0]))
    assert "'student and teacher agree' ranks trials most like val: Kendall's tau 0." in (
        ranking_sentence(found)
    )
    ((name, cells),) = ranking_table(found)
    assert name == "student and teacher agree" and cells["1/16 (16)"].endswith(" *")
    chance = rankings(summarize(trials(10, 3, None)[0]))
    assert ranking_sentence(chance).startswith("No signal without labels")


def test_tables_of_a_ratio_show_chosen_runs_and_the_shares_of_classes() -> None:
    pool = copy.deepcopy(POOL_SIGNALS)
    records = [rung("supervised", 16, 0, STEPS, 50.0, pool_signals=pool), final("supervised", 16)]
    (summary,) = summarize(records)
    ((name, signals),) = health_table(summary)
    assert name == "supervised only" and signals["agreement"] == 95.0
    columns, rows = class_share_table(summary)
    assert columns == ["labels", "supervised only"]
    assert rows == [("sky", [70.0, 60.0]), ("<road>", [30.0, 40.0])]
    del records[0]["pool_signals"]["class_shares"]["sky"]  # a damaged record
    assert class_share_table(summarize(records)[0])[1][0] == ("sky", [70.0, 0.0])
    del records[0]["pool_signals"]
    assert class_share_table(summarize(records)[0]) == ([], [])
