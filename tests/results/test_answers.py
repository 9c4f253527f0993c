"""Laws of the answers: what the pool is worth, labels for a target, what to spend on next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cid_ray.cli.parser import run_command
from cid_ray.config import Config, InputError, build_config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.report import main as report
from cid_ray.results.answers import NO_CURVE, answer
from cid_ray.results.label_worth import label_curve
from cid_ray.results.markdown import markdown
from cid_ray.results.records import Record, RecordWriter
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import compared, result_table, summarize
from tests.helpers.records import repeated_search, rung, small_search

ENDS = ("count", "low", "high")
SCORES = {4: 40.0, 8: 46.0, 16: 50.0}  # supervised; CID with 8 labels has what 16 bring


def search_with_a_curve() -> list[Record]:
    """CID at 8 labels reaches the supervised score at 16; at 4 labels only supervised was run."""
    records = repeated_search(8, supervised=SCORES[8], pool_bn=44.0, mean_teacher=47.0, cid=50.0)
    for count in (4, 16):
        records += supervised_only(count, SCORES[count])
    return records


def supervised_only(count: int, score: float) -> list[Record]:
    """A point of the label curve."""
    return [r for r in repeated_search(count, supervised=score) if r["method"] == "supervised"]


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


def test_missing_curve_is_explained_once_on_a_page() -> None:
    summaries = summarize(repeated_search())
    text = markdown(summaries, answer(summaries, PricesConfig(), 60.0))
    assert text.count("must be repeated at three ratios or more") == 1
    assert "60 mIoU needs cannot be told for the same reason" in text
    running = answers_of([rung("cid", 16, 0, 5, 44.0)], target=60.0)  # the reason is said first
    assert running.ways == [] and running.worth_sentences() == [NO_CURVE]


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
    assert {way["split"] for way in kept["ways_to_spend"]} == {"val"}


def test_record_tells_fewer_labels_than_the_curve_from_more() -> None:
    far, near = (answers_of(search_with_a_curve(), target=x).record() for x in (99.0, 1.0))
    more = {"count": 32, "low": 32, "high": 32, "beyond_reach": dict.fromkeys(ENDS, "more")}
    fewer = {"count": 2, "low": 2, "high": 2, "beyond_reach": dict.fromkeys(ENDS, "fewer")}
    assert (far["needed"]["supervised"], near["needed"]["supervised"]) == (more, fewer)
    cid = next(worth for worth in far["worth"] if worth["method"] == "cid")
    assert cid["supervised_labels"]["beyond_reach"] == {}


def test_times_beyond_the_curve_are_said_as_its_ends() -> None:
    records = repeated_search(8, supervised=46.0, pool_bn=20.0, cid=60.0)
    records += [r for n in (4, 16) for r in supervised_only(n, SCORES[n])]
    times = {row[1]: row[3] for row in answers_of(records).worth_table()}
    assert times["CID"] == "more than 4.0"
    assert times["supervised, pool through batch norm"] == "at most 0.25"


# ---- the gain of labels ----


def with_val(records: list[Record]) -> list[Record]:
    """Val rises half as fast with the labels as test does."""
    for record in records:
        if record["event"] == "final" and record["repeats_of"]:
            record["val/miou_teacher"] = 20 + record["test/miou_teacher"] / 2
    return records


def test_gain_of_labels_is_on_val_as_all_gains_are() -> None:
    records = repeated_search(8, supervised=46.0, pool_bn=44.0, mean_teacher=47.0, cid=48.0)
    for count in (4, 16, 32):
        records += supervised_only(count, {**SCORES, 32: 53.0}[count])
    summaries = summarize(with_val(records))
    labels = answer(summaries).ways[0]
    on_val, on_test = label_curve(summaries, "val"), label_curve(summaries, "test")
    assert on_val and on_test and labels.gain == on_val.gain("cid", 8, 8)
    on_test_gain = on_test.gain("cid", 8, 8)
    assert labels.gain and on_test_gain
    assert labels.gain.points == pytest.approx(on_test_gain.points / 2, rel=0.2)
    assert labels.text().endswith("mIoU on val")


def test_method_that_is_not_on_the_curve_has_no_gain_of_labels() -> None:
    records = repeated_search(8, repeats=1)  # was stopped: the others have three
    for count in (4, 16, 32):
        records += supervised_only(count, {**SCORES, 32: 53.0}[count])
    answers = answers_of(records)
    assert answers.curve and answers.curve.counts == (4, 16, 32)
    assert answers.ways[0].gain is None


# ---- the command ----


def write_run(folder: Path, records: list[Record]) -> None:
    writer = RecordWriter(folder)
    for record in records:
        writer.append(record)
    (folder / "config.yaml").write_text(Config().to_yaml())


def test_report_command_answers_a_target(tmp_path: Path, capsys: Any) -> None:
    write_run(tmp_path, search_with_a_curve())
    assert report([str(tmp_path), "--target", "46", "--set", "prices.label=2"]) == 0
    out = capsys.readouterr().out
    assert "8 labels do the work of" in out and "46 mIoU on test needs" in out
    assert (tmp_path / "report" / "answers.json").exists()


@pytest.mark.parametrize(
    "records", [small_search(), repeated_search(16)], ids=["one seed", "one count"]
)
def test_target_of_a_run_without_a_curve_is_one_sentence(
    records: list[Record], tmp_path: Path, capsys: Any
) -> None:
    write_run(tmp_path, records)
    prices = ["--set", "prices.label=2", "--set", "prices.hour=0.5"]
    assert report([str(tmp_path), "--target", "52", *prices]) == 0
    lines = capsys.readouterr().out.splitlines()
    about_target = [line for line in lines if "52 mIoU" in line]
    assert about_target == ["How many labels 52 mIoU needs cannot be told for the same reason."]
    assert lines[lines.index(about_target[0]) - 1] == NO_CURVE
    assert [line for line in lines if line.startswith("  16 more labels ($32.00): cannot be told")]
    assert "no way to spend is shown to pay" in lines[lines.index(about_target[0]) + 1]


@pytest.mark.parametrize("target", ["0", "100", "-1", "101", "nan", "inf", "x"])
def test_bad_target_is_refused_in_words(target: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"argument --target: {target} must be a mIoU in percent"):
        report([str(tmp_path), f"--target={target}"])


def test_fraction_as_target_is_refused_with_the_percent_that_was_meant(capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(report, ["runs/none", "--target", "0.52"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert "0.52 must be a mIoU in percent" in line and "did you mean 52?" in line
    with pytest.raises(InputError, match=r"target is 0\.52, must be .*did you mean 52"):
        answer(summarize(search_with_a_curve()), target=0.52)
