"""Laws of the answers: what the pool is worth, labels for a target, what to spend on next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cid_ray.config import Config, InputError, build_config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.report import main as report
from cid_ray.results.answers import NO_CURVE, answer
from cid_ray.results.label_worth import Gain
from cid_ray.results.markdown import markdown
from cid_ray.results.records import Record, RecordWriter
from cid_ray.results.report_page import write_page
from cid_ray.results.spending import Spending, expected_maximum, recommendation, ways_to_spend
from cid_ray.results.summary import RatioSummary, compared, result_table, summarize
from tests.helpers.records import full_trial, repeated_search, rung, search

SCORES = {4: 40.0, 8: 46.0, 16: 50.0}  # supervised; CID with 8 labels has what 16 bring


def search_with_a_curve() -> list[Record]:
    """CID at 8 labels reaches the supervised score at 16; at 4 labels only supervised was run."""
    records = repeated_search(8, supervised=SCORES[8], pool_bn=44.0, mean_teacher=47.0, cid=50.0)
    for count in (4, 16):
        own = repeated_search(count, supervised=SCORES[count])
        records += [r for r in own if r["method"] == "supervised"]
    return records


def answers_of(records: list[Record], target: float | None = None, **prices: float) -> Any:
    return answer(summarize(records), PricesConfig(**prices), target)


def test_worth_of_the_pool_is_said_for_each_searched_ratio() -> None:
    answers = answers_of(search_with_a_curve())
    assert answers.curve.counts == (4, 8, 16) and answers.curve.reach == (2, 32)
    (sentence,) = answers.worth_sentences()
    assert sentence.startswith("With the pool (CID), 8 labels do the work of 1")
    cid = next(worth for worth in answers.worths if worth.method == "cid")
    assert cid.labels.low < 16 < cid.labels.high
    assert {row[1] for row in answers.worth_table()} == {
        "CID",
        "mean teacher",
        "supervised, pool through batch norm",
    }


def test_points_of_the_label_curve_have_a_line_in_the_table_and_no_verdict() -> None:
    records = search_with_a_curve()
    summaries = summarize(records)
    assert [summary.ratio for summary in compared(summaries)] == ["1/8"]
    assert [line["ratio"] for line in result_table(summaries)].count("1/4 (4)") == 1
    text = markdown(summaries, answer(summaries, PricesConfig()))
    assert "**1/8 (8).**" in text and "**1/4 (4).**" not in text


def test_target_is_answered_alone_and_with_the_pool() -> None:
    answers = answers_of(search_with_a_curve(), target=46.0)
    alone, cid = answers.needed["supervised"], answers.needed["cid"]
    assert alone.low < 8 < alone.high and cid.count < alone.count
    text = answers.target_sentence()
    assert text.startswith("46 mIoU on test needs ") and " with CID" in text
    far = answers_of(search_with_a_curve(), target=99.0)
    assert "needs more than 32 labels" in far.target_sentence()
    assert answers_of(repeated_search(), target=60.0).target_sentence().endswith(NO_CURVE)


def test_without_a_curve_the_remedy_is_said_and_no_number() -> None:
    answers = answers_of(repeated_search())
    assert answers.worth_sentences() == [NO_CURVE] and answers.worth_table() == []
    assert answers_of([]).worth_sentences() == [] and answers_of([]).next_sentence() == ""


def test_answers_file_holds_every_number_that_is_said(tmp_path: Path) -> None:
    records = search_with_a_curve()
    config = build_config({}, {"prices.label": 2.0, "prices.hour": 1.0})
    write_page(tmp_path, tmp_path / "report", records, config, target=46.0)
    kept = json.loads((tmp_path / "report" / "answers.json").read_text())
    answers = answer(summarize(records), config.prices, 46.0)
    assert kept == json.loads(json.dumps(answers.record()))
    (cid,) = (worth for worth in kept["worth"] if worth["method"] == "cid")
    assert f"{cid['supervised_labels']['count']:.0f}" in answers.worth_sentences()[0]
    assert kept["needed"]["cid"]["count"] == answers.needed["cid"].count
    assert [way["kind"] for way in kept["ways_to_spend"]] == ["labels", "tries", "training"]


# ---- labels or hours ----


def tuned(values: list[float], **fields: Any) -> RatioSummary:
    records: list[Record] = []
    for number, value in enumerate(values):
        records += full_trial("cid", 16, number, value)
    best = records[4 * int(np.argmax(values)) + 2]["run"]
    (summary,) = summarize([*records, search("cid", 16, best, **fields)])
    return summary


def test_expected_maximum_equals_simulated_one() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 8, 30):
        simulated = rng.normal(size=(100_000, count)).max(1).mean()
        assert expected_maximum(count) == pytest.approx(simulated, abs=0.02)


def test_more_tries_bring_what_normal_scores_would() -> None:
    values = [50.0, 52.0, 54.0, 51.0, 53.0]
    ways = {way.kind: way for way in ways_to_spend(tuned(values), None, PricesConfig())}
    gain = ways["tries"].gain
    assert gain is not None
    expected = np.std(values, ddof=1) * (expected_maximum(10) - expected_maximum(5))
    assert gain.points == pytest.approx(expected) and 0 == gain.low < gain.points < gain.high
    assert ways["tries"].what.startswith("5 more tries of CID (")


def test_budget_limits_what_is_bought_and_prices_are_said() -> None:
    values = [50.0, 52.0, 54.0, 51.0]
    prices = PricesConfig(label=10.0, hour=40_000.0)  # a try takes three seconds: 33 dollars
    ways = {way.kind: way for way in ways_to_spend(tuned(values), None, prices)}
    assert (ways["labels"].what, ways["labels"].usd) == ("10 more labels", 100.0)
    assert ways["tries"].what.startswith("3 more tries") or ways["tries"].what.startswith("2 more")
    assert all(way.usd is not None and way.usd <= 100.01 for way in ways.values())


@pytest.mark.parametrize(("price", "labels"), [(1e-320, 16), (1e9, 0)])
def test_extreme_prices_buy_all_or_nothing(price: float, labels: int) -> None:
    prices = PricesConfig(label=price, hour=price)
    ways = {way.kind: way for way in ways_to_spend(tuned([50.0, 52.0, 54.0, 51.0]), None, prices)}
    assert ways["labels"].what == f"{labels} more labels"
    assert (ways["tries"].gain is None) == (labels == 0)
    if not labels:
        assert "a try costs more than $100" in ways["tries"].text()


def test_method_with_nothing_to_tune_gets_no_more_tries() -> None:
    ways = ways_to_spend(tuned([50.0] * 4, hyperparameters=[]), None, PricesConfig())
    assert [way.kind for way in ways] == ["labels", "training"]


def test_longer_training_needs_three_rungs_and_follows_them() -> None:
    two = ways_to_spend(tuned([50.0]), None, PricesConfig())[-1]
    assert two.gain is None and "3 rungs tell" in two.text()
    records = full_trial("cid", 16, 0, 60.0)
    curve = {2: 40.0, 5: 53.0, 10: 60.0}
    records = [rung("cid", 16, 0, s, v) for s, v in curve.items()] + records[2:]
    (summary,) = summarize([*records, search("cid", 16, records[-2]["run"])])
    way = ways_to_spend(summary, None, PricesConfig())[-1]
    assert way.gain is not None and 0 < way.gain.points < 10
    assert way.what.startswith("training 2 times as long")


def test_recommendation_is_the_most_for_its_price() -> None:
    labels = Spending("labels", "24 more labels", 48.0, Gain(2.0, 0.5, 3.0), "test")
    tries = Spending("tries", "4 more tries", 0.5, Gain(0.4, 0.1, 0.9), "val")
    unsure = Spending("training", "longer", 0.1, Gain(5.0, -1.0, 9.0), "val")
    assert "most for its price: 4 more tries ($0.50): +0.40" in recommendation([labels, tries])
    free = [Spending(w.kind, w.what, None, w.gain, w.split) for w in (labels, tries, unsure)]
    assert recommendation(free).startswith("Next: 24 more labels: +2.00 (+0.50 to +3.00)")
    assert "no way to spend is shown to pay" in recommendation([unsure])


# ---- the command ----


def test_report_command_answers_a_target(tmp_path: Path, capsys: Any) -> None:
    writer = RecordWriter(tmp_path)
    for record in search_with_a_curve():
        writer.append(record)
    (tmp_path / "config.yaml").write_text(Config().to_yaml())
    assert report([str(tmp_path), "--target", "46", "--set", "prices.label=2"]) == 0
    out = capsys.readouterr().out
    assert "8 labels do the work of" in out and "46 mIoU on test needs" in out
    assert (tmp_path / "report" / "answers.json").exists()


@pytest.mark.parametrize("target", ["0", "100", "x"])
def test_bad_target_is_refused_in_words(target: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"argument --target: {target} must be a mIoU in percent"):
        report([str(tmp_path), "--target", target])
