"""Laws of repeats: they judge the chosen runs and enter nothing else; no gain is made up.

The reference is a made-up search whose repeats have known means and residuals
(tests/helpers/records.py), and the kept CamVid run with its kept report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.answers import answer
from cid_ray.results.figure_data import (
    curves_data,
    half_floor,
    history_data,
    label_curve_data,
    pareto_data,
    scale_of,
    slices_data,
)
from cid_ray.results.formatting import format_p
from cid_ray.results.markdown import markdown
from cid_ray.results.noise import Noise
from cid_ray.results.noise_records import noise_records
from cid_ray.results.records import Record, RecordWriter, read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import (
    RatioSummary,
    hyperparameters_by_ratio,
    result_table,
    summarize,
)
from cid_ray.results.tables import hyperparameter_table
from cid_ray.results.text_report import comparison_table
from cid_ray.results.verdict import CAUTION, caution, verdict
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.records import (
    finished,
    repeated_search,
    run_name,
    rung,
    write_small_search,
)


def summary_of(records: list[Record]) -> RatioSummary:
    (summary,) = summarize(records)
    return summary


def in_markdown(summaries: list[RatioSummary]) -> str:
    return markdown(summaries, answer(summaries, PricesConfig()))


def line_of(summary: RatioSummary, method: str) -> dict[str, Any]:
    return next(line for line in result_table([summary]) if line["method"] == method)


def test_repeats_enter_neither_choice_nor_search_figures() -> None:
    records = repeated_search()
    with_repeats = summary_of(records)
    without = summary_of([record for record in records if not record["repeats_of"]])
    assert with_repeats.chosen == without.chosen
    assert with_repeats.finals == without.finals
    assert history_data(with_repeats) == history_data(without)
    assert [t["trial"] for t in history_data(with_repeats)] == [0, 1, 2]
    assert curves_data(with_repeats) == curves_data(without)
    assert slices_data([with_repeats]) == slices_data([without])
    assert sum(map(len, with_repeats.repeats.values())) == 15 and not without.repeats


def test_summary_of_each_method_shows_the_run_that_its_search_chose() -> None:
    chosen = {method: r["run"] for method, r in summary_of(repeated_search()).chosen.items()}
    numbers = {"supervised": 0, "pool_bn": 0, "mean_teacher": 1, "cid": 1}
    assert chosen == {method: run_name(method, 16, number) for method, number in numbers.items()}


def test_result_table_of_repeats_has_mean_spread_and_paired_gain() -> None:
    summary = summary_of(repeated_search())
    cid = line_of(summary, "cid")
    supervised = line_of(summary, "supervised")
    assert cid["mean"] == pytest.approx(50.2)
    sd = summary.noise("test").sd("1_16-cid-001")
    assert sd is not None and cid["sd"] == pytest.approx(sd) and cid["sd"] > 0.5
    assert cid["repeats"] == 3 and cid["gain"] == pytest.approx(2.2)
    assert cid["floor"] == pytest.approx(summary.noise("test").floor)
    p = summary.comparisons("supervised")["cid"].adjusted_p
    assert p < 0.05 and cid["significance"] == f"above noise, {format_p(p)}"
    assert line_of(summary, "pool_bn")["significance"].startswith("within noise, p ")
    assert supervised["gain"] is None and supervised["mean"] == pytest.approx(48.0)


def test_verdict_of_repeats_says_within_noise_of_every_gain_that_is() -> None:
    text = verdict(summary_of(repeated_search()))
    assert "CID has 50.20 ± " in text and "(3 repeats)" in text
    assert "+2.20 over supervised only (above noise, p " in text
    assert "+0.20 over mean teacher (within noise, p " in text
    assert "The pool pays" in text
    assert "CID and mean teacher are within noise of each other" in text
    assert "terms pay" not in text


@pytest.mark.parametrize(
    ("means", "present", "absent"),
    [
        (
            {"cid": 53.0},
            ["CID's terms pay: +3.00 over mean teacher", "The pool pays."],
            ["within noise of each"],
        ),
        (
            {"mean_teacher": 53.0},
            ["-2.80 against mean teacher (above noise, p ", "do not pay: -2.80"],
            ["terms pay:"],
        ),
        (
            {"mean_teacher": 48.0, "cid": 48.2},
            ["Nothing here shows that the pool pays"],
            ["The pool pays", "s pay:"],
        ),
        (
            {"pool_bn": 40.0, "mean_teacher": 44.0, "cid": 45.0},
            ["the pool does not pay"],
            ["Nothing", "The pool"],
        ),
    ],
)
def test_verdict_of_repeats_follows_their_means(
    means: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    text = verdict(summary_of(repeated_search(**means)))
    assert all(part in text for part in present), text
    assert not any(part in text for part in absent), text


@pytest.mark.parametrize(
    ("rival", "words"),
    [
        (53.0, ["CID does not pay: -2.80 against self-training", "pays through self-training"]),
        (48.0, ["CID pays: +2.20 over self-training", "The pool pays."]),
    ],
)
def test_verdict_of_self_training_is_about_cid_not_about_its_terms(
    rival: float, words: list[str]
) -> None:
    records = repeated_search(mean_teacher=rival, pool_bn=40.0, supervised=40.0)
    renamed = json.loads(json.dumps(records).replace("mean_teacher", "self_training"))
    text = verdict(summary_of(renamed))
    assert all(part in text for part in words) and "terms" not in text, text


def test_caution_with_repeats_says_how_the_floor_was_measured() -> None:
    measured = summary_of(repeated_search(8))
    single = summary_of(repeated_search(16, repeats=0))
    assert caution([single]) == CAUTION and "search.repeats.n=3" in CAUTION
    alone = caution([measured])
    both = caution([measured, single])
    assert "One seed" not in alone
    assert "5 candidates were run 3 times each on fresh seeds and label draws" in alone
    assert f"floor {measured.noise('test').floor:.2f} with 8 degrees" in alone
    assert both.startswith(alone) and "1/16 (16): one seed" in both


def test_single_repeat_measures_no_noise_and_is_not_judged() -> None:
    summary = summary_of(repeated_search(repeats=1))
    line = line_of(summary, "cid")
    assert line["repeats"] == 1 and line["sd"] is line["floor"] is line["significance"] is None
    assert caution([summary]) == CAUTION and "±" not in verdict(summary)


def test_repeats_with_different_seeds_form_no_block() -> None:
    records = repeated_search()
    for record in records:
        if record["repeats_of"] == "1_16-cid-001" and record["repeat_index"] == 2:
            record["seed"] = 5
    assert summary_of(records).noise("test").num_repeats == 2


def test_method_without_repeats_has_no_numbers_of_repeats() -> None:
    records = [r for r in repeated_search() if r["repeats_of"] != "1_16-pool_bn-000"]
    summary = summary_of(records)
    assert line_of(summary, "pool_bn")["mean"] is None
    assert line_of(summary, "cid")["repeats"] == 3
    assert "batch norm" not in verdict(summary)


def test_noise_records_have_the_printed_numbers_and_change_no_score(tmp_path: Path) -> None:
    records = repeated_search(16) + repeated_search(8)
    before = summarize(records)
    noise = noise_records(before)
    assert [(r["ratio"], r["split"]) for r in noise] == [
        ("1/8", "val"),
        ("1/8", "test"),
        ("1/16", "val"),
        ("1/16", "test"),
    ]
    again = noise_records(summarize([*records, *noise]))  # a resumed search writes them again
    for record in (*records, *noise, *again):
        RecordWriter(tmp_path).append(record)
    read = read_records(tmp_path)
    assert [r for r in read if r["event"] == "noise"] == json.loads(json.dumps(noise))
    assert result_table(summarize(read)) == result_table(before)
    record = noise[3]
    line = line_of(before[1], "cid")
    assert record["floor"] == line["floor"] and record["n"] == 3 and record["df"] == 8
    assert record["differences"]["cid"]["supervised"] == line["gain"]
    comparison = record["comparisons"]["cid"]["supervised"]
    assert comparison["difference"] == line["gain"]
    assert format_p(comparison["adjusted_p"]) in verdict(before[1])
    assert record["means"]["1_16-cid-001"] == line["mean"] and len(record["means"]) == 5


def test_figure_data_of_repeats_has_means_spreads_and_floors() -> None:
    summary = summary_of(repeated_search())
    curve: list[Any] = [(16, pytest.approx(50.2))]
    assert label_curve_data([summary])["cid"] == curve
    runs = [*summary.repeated_runs(summary.noise("test")).values()]
    scores = {run: summary.noise("test").scores[run] for run in runs}
    floor = Noise(scores).floor  # of the chosen runs, without the other candidates
    assert floor is not None and half_floor([summary]) == pytest.approx(floor / 2)
    single = summary_of(repeated_search(repeats=0))
    lucky: list[Any] = [(16, pytest.approx(61.6))]
    assert label_curve_data([single])["cid"] == lucky
    assert half_floor([single]) is None


def test_slices_data_holds_trials_of_full_length_only() -> None:
    pruned = rung("cid", 16, 3, 5, 60.0, params={"loss.relation_weight": 9.0})
    end = finished("cid", 16, 3, state="pruned")
    slices = slices_data([summary_of([*repeated_search(), pruned, end])])
    weights = slices["loss.relation_weight"]
    assert weights == {"1/16 (16)": [(1.0, 45.0), (0.1, 51.0), (0.01, 51.5)]}
    kinds = [value for value, _ in slices["loss.relation_kind"]["1/16 (16)"]]
    assert kinds == ["self", "cross", "self"]


def test_scale_of_axis_follows_its_values() -> None:
    log_uniform = [0.01, 0.03, 0.1, 0.4, 1.0]
    uniform = [0.01, 0.2, 0.4, 0.6, 0.8]
    assert scale_of(log_uniform) == "log" and scale_of(uniform) == "linear"
    assert scale_of([0.0, *log_uniform]) == scale_of([0.1, 0.11, 0.12, 0.5]) == "linear"
    assert scale_of([True, False]) == scale_of([1, "auto"]) == "category"


def test_pareto_data_separates_the_front_from_other_full_trials() -> None:
    data = pareto_data(summary_of(repeated_search()))
    assert data == {"front": [(5.0, 45.0), (7.0, 51.5)], "others": [(6.0, pytest.approx(62.6))]}


def test_hyperparameter_table_has_one_column_per_ratio() -> None:
    summaries = summarize(repeated_search(16) + repeated_search(8))
    del summaries[0].cid_search["best_hyperparameters"]["x"]
    entries = hyperparameters_by_ratio(summaries)["x"]
    assert [entry is None for entry in entries] == [True, False]
    table = dict(hyperparameter_table(summaries))
    assert table["loss.relation_weight"] == ["0.1 (0.01 – 0.1)"] * 2
    assert table["x"] == ["–", "a (a, b)"]


def test_page_markdown_and_terminal_show_the_same_judgement(tmp_path: Path) -> None:
    records = repeated_search(16) + repeated_search(8)
    summaries = summarize(records)
    page = write_page(tmp_path, tmp_path / "report", records, Config()).read_text()
    line = line_of(summaries[1], "cid")
    for text in (
        page,
        in_markdown(summaries),
        comparison_table(summaries),
    ):
        assert f"{line['mean']:.2f} ± {line['sd']:.2f}" in text
        assert "+2.20" in text and "above noise" in text
    assert page.count("<svg") == 7 and "a measure &lt;of&gt; some kind" in page
    assert "One seed and one label draw" not in page + markdown(
        summaries, answer(summaries, PricesConfig())
    )
    headings = (
        "How hyperparameters change with the label count",
        "Score against cost",
        "Repeated runs",
    )
    for heading in headings:
        assert heading in page


def test_kept_run_gives_the_table_and_verdicts_kept_with_it() -> None:
    summaries = summarize(read_records(KEPT_RUN))
    kept = (KEPT_RUN / "report" / "report.md").read_text()
    made = in_markdown(summaries)
    table = [line for line in kept.splitlines() if line.startswith("|")]
    assert table == [line for line in made.splitlines() if line.startswith("|")]
    assert len(table) > 2
    assert all(f"**{s.name}.** {verdict(s)}" in kept for s in summaries)
    assert caution(summaries) in made


def test_report_page_without_repeats_does_not_mention_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_small_search(folder)
    records = read_records(folder)
    assert noise_records(summarize(records)) == []
    page = write_page(folder, tmp_path / "report", records, Config()).read_text()
    above_config = page.partition("<summary>")[0]
    assert CAUTION in above_config
    assert "PED-ANOVA over completed trials only. Pruned trials do not count." in above_config
    absent_words = (
        "of the repeats",
        "Repeats are",
        "noise<br>",
        "significance",
        "How hyperparameters change",
        "Score against cost",
        "Repeated runs",
    )
    for absent in absent_words:
        assert absent not in above_config.replace(CAUTION, "")
