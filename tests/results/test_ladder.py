"""Law: what a ladder says follows from its final records alone. References: sums by hand, laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cid_ray.config import InputError
from cid_ray.results import batch_ladder, score_ladder
from cid_ray.results.batch_ladder import images_to
from cid_ray.results.ladder import (
    Curve,
    curves_of,
    failed_lines,
    forecasts_of,
    paired_gain,
    with_repeat_noise,
)
from cid_ray.results.ladder_page import append_conclusions, ladder_report, write_ladder_report
from cid_ray.results.laws import Forecast
from cid_ray.results.record_lines import parse_line
from cid_ray.results.records import Record, of_event
from cid_ray.results.score_ladder import label_curve_of
from tests.helpers.hostile_text import HARMLESS, HOSTILE, Skeleton
from tests.helpers.ladders import (
    LAW,
    batch_ladder_records,
    concurrency_rung,
    encoder_rung,
    final,
    label_ladder,
    label_ladder_of_two,
    pool_ladder,
    rung_of,
    write_ladder,
)


def test_curve_has_mean_and_spread_of_the_repeats() -> None:
    scores = [("cid", 0, 50.0), ("cid", 1, 53.0), ("supervised", 0, 40.0)]
    finals = [final(method, 12, seed, score) for method, seed, score in scores]
    cid, supervised = curves_of("labels", finals)
    assert cid.mean(12) == 51.5
    assert cid.sd(12) == pytest.approx(2.1213, abs=1e-4)
    assert cid.seconds[12] == 20.0
    assert supervised.sd(12) is None


def test_gain_is_paired_by_seed() -> None:
    """Draws that differ by ten points, and a gain of one point in each."""
    gain = paired_gain({0: 41.0, 1: 51.1, 2: 60.9}, {0: 40.0, 1: 50.0, 2: 60.0, 3: 99.0})
    assert gain is not None
    assert gain[0] == pytest.approx(1.0)
    assert gain[1] == pytest.approx(0.1 / 3**0.5 * 4.3027, rel=1e-3)
    assert paired_gain({0: 41.0}, {0: 40.0}) is None


def test_largest_count_is_forecast_from_the_others_alone() -> None:
    (curve,) = curves_of("labels", label_ladder())
    left_out, double = forecasts_of(curve)
    assert (left_out.count, double.count) == (96, 192)
    assert left_out.measured == pytest.approx(curve.mean(96))
    assert left_out.forecast.low < LAW.score(96) < left_out.forecast.high
    assert double.forecast.low < LAW.score(192) < double.forecast.high
    curve.scores[96] = {seed: score - 30 for seed, score in curve.scores[96].items()}
    assert forecasts_of(curve)[0].forecast == left_out.forecast


def test_three_counts_forecast_but_cannot_check_it_and_two_say_why_not() -> None:
    (three,) = curves_of("labels", label_ladder((12, 24, 48)))
    assert [one.measured for one in forecasts_of(three)] == [None]
    two = label_ladder((12, 24))
    assert forecasts_of(curves_of("labels", two)[0]) == []
    assert "needs three counts or more, this ladder has 2" in ladder_report(two).lines[0]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({10: [40, 50, 60], 20: [45, 55, 65.1], 40: [50, 60.2, 70]}, "still pays at its full size"),
        (
            {10: [40, 50, 60], 20: [49.9, 60.2, 70], 40: [50, 60, 70.1]},
            # sd of 0.1, -0.2, 0.1, over the root of 3, times 4.303
            "+0.00 ± 0.43; these repeats cannot tell a gain below 0.43 from none",
        ),
        (
            {10: [50.2, 59.9, 70], 40: [50, 60, 70.1]},
            "cannot be told; these repeats cannot tell a gain below 0.43 from none",
        ),
        ({10: [50.2, 59.9, 70], 40: [45, 55, 65.1]}, "the larger pool hurts here"),
        ({10: [50], 40: [50.1]}, "from one repeat"),
    ],
)
def test_pool_advice_says_no_more_than_the_paired_gains(
    scores: dict[int, list[float]], said: str
) -> None:
    assert said in "; ".join(ladder_report(pool_ladder(scores)).lines)


def falling(sd: float) -> list[Record]:
    random = np.random.default_rng(0)
    scores = {12: 60.0, 24: 58.0, 48: 56.0, 96: 54.0}
    finals = [
        final("cid", n, seed, score + sd * random.standard_normal())
        for seed in range(3)
        for n, score in scores.items()
    ]
    return [*finals, *(rung_of("labels", finals, f, str(f["label_count"])) for f in finals)]


def test_falling_curve_gets_no_advice_to_label_more() -> None:
    """The law cannot fall: its forecast of the largest count misses, and that is said."""
    said = " ".join(ladder_report(falling(0.5)).lines)
    assert "more labels pay" not in said
    assert "but the law missed 96 labels, so do not rely on it" in said


def test_interval_holds_what_a_repeat_does_to_all_counts() -> None:
    """Flat truth; a repeat moves all counts by two points, and each by half a point more."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        shared = 2 * random.standard_normal(3)
        finals = [
            final("cid", n, seed, 50 + shared[seed] + 0.5 * random.standard_normal())
            for seed in range(3)
            for n in (12, 24, 48)
        ]
        (double,) = forecasts_of(curves_of("labels", finals)[0])
        inside += double.forecast.low <= 50 <= double.forecast.high
    assert inside / 200 >= 0.95 - 3 * (0.95 * 0.05 / 200) ** 0.5


def test_equal_encoders_do_not_beat_each_other() -> None:
    report = ladder_report([encoder_rung("one", 1.0, 40.0), encoder_rung("two", 1.0, 40.0)])
    assert report.lines[0].endswith("better than one, two")


def test_failure_that_a_resume_has_mended_is_no_failure() -> None:
    lost = {**final("cid", 12, 0, 0.0), "event": "failed", "reason": "NaN"}
    assert failed_lines([lost, *label_ladder()]) == []


def test_label_ladder_says_what_a_method_is_worth_in_supervised_labels() -> None:
    records = label_ladder_of_two(2.0)
    said = " ".join(ladder_report(records).lines)
    curve = label_curve_of("labels", records)
    assert curve is not None
    worth = curve.worth("cid", 24)
    assert worth.low < 48 < worth.high
    assert f"CID: 24 labels do the work of {curve.text(worth)} supervised labels" in said
    assert "supervised only: 24 labels do the work" not in said
    assert label_curve_of("labels", label_ladder()) is None
    single = [r for r in records if r.get("seed", 0) == 0]
    assert label_curve_of("labels", single) is None


def test_every_forecast_that_is_said_is_in_a_record() -> None:
    records = label_ladder()
    forecasts = of_event(score_ladder.conclusions(records), "forecast")
    assert len(forecasts) == 2
    report = ladder_report(records)
    said = "".join(report.lines)
    for record in forecasts:
        assert f"{record['value']:.2f} ({record['low']:.2f} to {record['high']:.2f})" in said
    rungs = [r for r in records if r["event"] == "ladder"]
    assert {f"{r['measured']['mean']:.2f}" for r in rungs[-4:]} <= {
        row[2].split(" ")[0] for row in report.rows
    }


def test_records_of_a_ladder_are_read_back(tmp_path: Path) -> None:
    records = label_ladder()
    found = append_conclusions(write_ladder(tmp_path, records))
    assert [r["event"] for r in found].count("ladder") == 4  # the last of each count
    assert [r["event"] for r in found].count("forecast") == 2
    assert ladder_report(found).lines == ladder_report(records).lines


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_page_of_hostile_texts_has_the_elements_of_a_harmless_one(
    tmp_path: Path, text: str
) -> None:
    pages = []
    for mark in (HARMLESS, text):
        records = label_ladder()
        for field in ("machine", "device", "data", "git", "label_from"):
            records[11][field] = mark
        records[11]["versions"] = {mark: mark}
        page = write_ladder_report(tmp_path, records, lambda _: None)
        pages.append(page.read_text())
    assert Skeleton(pages[0]).elements == Skeleton(pages[1]).elements
    assert HARMLESS in pages[0]
    assert "96 labels were forecast" in pages[1]


def test_failed_trainings_are_counted_and_named() -> None:
    lost = {**final("cid", 12, 7, 0.0), "event": "failed", "reason": "NaN"}
    line = ladder_report([*label_ladder(), lost]).lines[-1]
    assert line == "1 failed training is left out: labels-12-cid-7"


def test_run_without_a_ladder_is_refused() -> None:
    with pytest.raises(InputError, match="hold no count of a ladder"):
        ladder_report([final("cid", 12, 0, 50.0)])


def test_a_damaged_record_of_a_ladder_is_refused() -> None:
    with pytest.raises(ValueError, match="ladder record"):
        parse_line(b'{"event": "ladder", "run": "a", "ladder": "labels", "count": "many"}')


# ---- batch, model, concurrency ----


def test_batch_ladder_finds_the_images_to_the_same_score() -> None:
    assert images_to(50, [(100, 40.0), (200, 60.0)]) == 150.0
    assert images_to(50, [(100, 55.0)]) == 100.0
    assert images_to(50, [(100, 40.0), (200, 49.9)]) is None
    records = batch_ladder_records({4: [6144], 16: [9216]})
    found = batch_ladder.images_of(records)
    assert batch_ladder.target_of(records) == 60.0
    assert found == {4.0: {0: 6144.0}, 16.0: {0: 9216.0}}
    (line,) = ladder_report(records).lines
    assert "1.50 (one repeat) times the images with a batch of 16 as with 4" in line
    assert "4 times the workers are about 2.7 times as fast" in line
    assert [row[-1] for row in ladder_report(records).rows] == ["768", "288"]


def test_batch_ladder_says_that_steps_are_whole() -> None:
    """A batch of 16 ends a step later, and its steps have a pool image less."""
    records = batch_ladder_records({4: [6144], 16: [9216]})
    assert [row[1] for row in ladder_report(records).rows] == ["9,248", "9,248"]
    for record in records:
        if record["run"] == "batch-16-cid-0":
            record["images_seen"] = record["step"] * 31
    report = ladder_report(records)
    assert [row[1] for row in report.rows] == ["9,248", "8,959"]
    assert report.lines[0].endswith(
        "saw 8,959 to 9,248 images in all, because steps and the pool's batch are whole numbers"
    )
    assert [row[-1] for row in report.rows] == ["768", "288"]  # by the steps of each size


def test_batch_ladder_says_how_far_repeats_differ() -> None:
    """Both repeats take half as many images again, whatever they take: the ratio is exact."""
    records = batch_ladder_records({4: [6144, 12288], 16: [9216, 18432]})
    report = ladder_report(records)
    assert [row[-2:] for row in report.rows] == [
        ("9,216 ± 4,344", "1,152 ± 543"),
        ("13,824 ± 6,517", "432 ± 204"),
    ]
    assert "takes 1.50 (1.50 to 1.50) times the images" in report.lines[0]
    unequal = batch_ladder_records({4: [6144, 6144], 16: [6144, 12288]})
    own = batch_ladder.to_target(unequal)[16.0]
    assert own is not None and own.factor == pytest.approx(2**0.5)
    half = 12.706 * np.log(2) / 2  # t of one degree of freedom times the standard error
    assert own.factor_high == pytest.approx(2**0.5 * np.exp(half), rel=1e-3)


def test_model_ladder_names_the_encoders_that_none_beats() -> None:
    rungs = [
        encoder_rung("small", 1.0, 40.0),
        encoder_rung("slow", 3.0, 39.0),
        encoder_rung("large", 4.0, 50.0),
    ]
    report = ladder_report(rungs)
    assert report.lines[0] == "no other encoder is both faster and better than small, large"
    assert [row[-1] for row in report.rows] == ["", "small", ""]


def test_concurrency_ladder_recommends_the_fewest_that_finish_most() -> None:
    rungs = [concurrency_rung(count, speed) for count, speed in ((1, 60), (2, 100), (4, 102))]
    assert [rung["measured"]["trials_per_hour"] for rung in rungs] == pytest.approx([60, 100, 102])
    (line,) = ladder_report(rungs).lines
    assert line == (
        "2 at a time finish most trials, 100.0 per hour: set search.cpus_per_trial=1 "
        "search.gpus_per_trial=0.5"
    )


def test_batch_ladder_without_a_val_score_says_what_val_needs() -> None:
    records = batch_ladder_records({4: [6144], 16: [9216]})
    for record in records:
        if record["event"] == "rung":
            record["val/miou_teacher"] = None
    with pytest.raises(InputError, match="val needs images with labels"):
        ladder_report(records)


def test_interval_of_a_forecast_stays_a_percentage() -> None:
    """Repeats far apart, near both ends of the scale."""
    for level in (4.0, 96.0):
        scores = {float(n): {0: level - 3, 1: level + 3} for n in (12, 24, 48)}
        curve = Curve("cid", scores)
        found = with_repeat_noise(curve, curve.counts, Forecast(level, level - 1, level + 1))
        assert 0 <= found.low < level < found.high <= 100
        assert found.low == 0 or found.high == 100
