"""Laws of repeats: they judge the chosen runs and enter nothing else; no gain is claimed that is within noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cid_ray import report
from cid_ray.config import Config
from cid_ray.results import figures
from cid_ray.results.noise import Noise
from cid_ray.results.page import markdown, moved, write_page
from cid_ray.results.record import Row, Rows, read_rows
from cid_ray.results.summary import METHODS, RatioSummary, noise_rows, settings_by_ratio, summarize, table
from cid_ray.results.verdict import CAUTION, caution, verdict
from tests.results.test_record import a_search, final, rung

KEPT_RUN = Path(__file__).parents[2] / "benchmarks" / "results" / "camvid-cpu"
BASE = {"supervised": 48.0, "pool_bn": 48.1, "mean_teacher": 50.0, "cid": 50.2}
PAIRS = (-0.9, 0.2, 0.7)  # what each pair's seed and draw do to everyone
RESIDUALS = {  # of rows and columns that sum to zero, so that means and pair effects are exactly as written
    "supervised": (0.2, -0.1, -0.1), "pool_bn": (-0.2, 0.1, 0.1), "mean_teacher": (0.1, -0.2, 0.1),
    "cid": (-0.1, 0.2, -0.1),
}  # fmt: skip


def run_of(method: str, count: int, number: int = 0) -> str:
    return f"1_{count}-{method}-{number:03d}"


def trial(method: str, count: int, number: int, value: float, **params: Any) -> list[Row]:
    """A finished trial: two rungs, a final row without test scores, an end."""
    run = run_of(method, count, number)
    rungs = [{**rung(run, method, count, step, value - (5 if step == 5 else 0)), "params": params} for step in (5, 10)]
    row = {k: v for k, v in final(method, count, run=run).items() if "test" not in k}
    scores = {"val/miou_teacher": value, "val/miou": value - 1, "latency_ms": 5.0 + number}
    ended = {"event": "trial", "run": run, "state": "complete", "reason": ""}
    return [*rungs, {**row, **scores, "params": params, "seed": 0, "draw": 0}, ended]


def repeat(candidate: str, method: str, count: int, pair: int, score: float) -> list[Row]:
    run, marks = f"{candidate}-pair{pair}", {"confirms": candidate, "pair": pair, "seed": 100 + pair, "draw": pair}
    scores = {f"{s}/{k}": score + (s == "val") for s in ("val", "test") for k in ("miou", "miou_teacher")}
    return [
        {**rung(run, method, count, 10, 99.0), **marks},
        {**final(method, count, run=run), **scores, **marks, "params": {"loss.relation_weight": 77.0}},
        {"event": "trial", "run": run, "state": "complete", "reason": ""},
    ]


def a_confirmed_search(count: int = 16, repeats: int = 3, **base: float) -> list[Row]:
    """Three CID trials, of which val chose the middle one and 001 and 002 were repeated; two trials of mean teacher."""
    base = {**BASE, **base}
    rows: list[Row] = []
    for number, value in enumerate((45.0, 51.0, 51.5)):
        weight, kind = 10.0**-number, ("self", "cross", "self")[number]
        rows += trial("cid", count, number, value, **{"loss.relation_weight": weight, "loss.relation_kind": kind})
    rows += trial("mean_teacher", count, 0, 47.0) + trial("mean_teacher", count, 1, 49.0)
    rows += trial("supervised", count, 0, 48.0) + trial("pool_bn", count, 0, 48.0)
    best = {"supervised": 0, "pool_bn": 0, "mean_teacher": 1, "cid": 1}
    for method, number in best.items():
        lucky = final(method, count, 60.0, run=run_of(method, count, number))  # far from what its repeats will say
        rows.append({**lucky, "latency_ms": 5.0 + number, "seed": 0, "draw": 0})
        search = {"event": "search", "run": f"1/{count} {method}", "ratio": f"1/{count}", "method": method}
        rows.append({**search, "best": run_of(method, count, number), "wanted": 3, "states": {"COMPLETE": 3}})
    rows[-1] |= {
        "candidates": [run_of("cid", count, 1), run_of("cid", count, 2)],
        "top": {
            "loss.relation_weight": {"best": 0.1, "low": 0.01, "high": 0.1},
            "x": {"best": "a", "values": ["a", "b"]},
        },
        "importances": {"loss.relation_weight": 1.0},
        "importance_method": "a measure <of> some kind",
        "cost": "latency_ms",
        "pareto": [
            {"run": run_of("cid", count, number), "params": {"x": 0.25}, "value": value, "cost": 5.0 + number}
            for number, value in ((2, 51.5), (0, 45.0))
        ],
    }
    for i, effect in enumerate(PAIRS[:repeats]):
        for method, number in best.items():
            score = base[method] + effect + RESIDUALS[method][i]
            rows += repeat(run_of(method, count, number), method, count, i + 1, score)
        rows += repeat(run_of("cid", count, 2), "cid", count, i + 1, base["cid"] - 1 + effect)
    return rows


def summary_of(rows: list[Row]) -> RatioSummary:
    (summary,) = summarize(rows)
    return summary


def line_of(summary: RatioSummary, method: str) -> dict[str, Any]:
    return next(line for line in table([summary]) if line["method"] == METHODS[method])


def test_repeats_enter_neither_the_choice_nor_the_search() -> None:
    rows = a_confirmed_search()
    with_repeats, without = summary_of(rows), summary_of([row for row in rows if "-pair" not in row["run"]])
    assert with_repeats.finals == without.finals
    assert with_repeats.trials == without.trials
    assert figures.history_data(with_repeats) == figures.history_data(without)
    assert [t["trial"] for t in figures.history_data(with_repeats)] == [0, 1, 2]
    assert figures.curves_data(with_repeats) == figures.curves_data(without)
    assert figures.slices_data([with_repeats]) == figures.slices_data([without])
    assert sum(map(len, with_repeats.confirmed.values())) == 15 and not without.confirmed


def test_every_method_shows_the_run_that_its_search_chose() -> None:
    chosen = {method: row["run"] for method, row in summary_of(a_confirmed_search()).finals.items()}
    assert chosen == {
        m: run_of(m, 16, n) for m, n in (("supervised", 0), ("pool_bn", 0), ("mean_teacher", 1), ("cid", 1))
    }


def test_the_table_tells_mean_spread_and_paired_gain_of_the_repeats() -> None:
    summary = summary_of(a_confirmed_search())
    cid, supervised = line_of(summary, "cid"), line_of(summary, "supervised")
    assert cid["mean"] == pytest.approx(50.2)
    assert cid["sd"] == pytest.approx(summary.noise("test").sd("1_16-cid-001")) and cid["sd"] > 0.5
    assert cid["repeats"] == 3 and cid["gain"] == pytest.approx(2.2)
    assert cid["floor"] == pytest.approx(summary.noise("test").floor)
    assert cid["judged"] == "above noise" and line_of(summary, "pool_bn")["judged"] == "within noise"
    assert supervised["gain"] is None and supervised["mean"] == pytest.approx(48.0)


def test_the_verdict_says_within_noise_of_every_gain_that_is() -> None:
    told = verdict(summary_of(a_confirmed_search()))
    assert "CID has 50.20 ± " in told and "(3 repeats)" in told
    assert "+2.20 over supervised only (noise floor " in told and ": above noise)" in told
    assert "+0.20 over mean teacher (within noise)" in told
    assert "The pool pays" in told and "CID and mean teacher are within noise of each other" in told
    assert "terms pay" not in told


@pytest.mark.parametrize(
    ("base", "said", "unsaid"),
    [
        ({"cid": 53.0}, ["CID's terms pay: +3.00 over mean teacher", "The pool pays."], ["within noise of each"]),
        ({"mean_teacher": 53.0}, ["-2.80 against mean teacher (above noise)", "do not pay: -2.80"], ["terms pay:"]),
        ({"mean_teacher": 48.0, "cid": 48.2}, ["Nothing here shows that the pool pays"], ["The pool pays", "s pay:"]),
        ({"pool_bn": 40.0, "mean_teacher": 44.0, "cid": 45.0}, ["the pool does not pay"], ["Nothing", "The pool"]),
    ],
)  # fmt: skip
def test_verdicts_follow_the_means_of_the_repeats(base: dict[str, float], said: list[str], unsaid: list[str]) -> None:
    told = verdict(summary_of(a_confirmed_search(**base)))
    assert all(text in told for text in said), told
    assert not any(text in told for text in unsaid), told


def test_the_caution_gives_way_to_how_the_floor_was_measured() -> None:
    measured, single = summary_of(a_confirmed_search(8)), summary_of(a_confirmed_search(16, repeats=0))
    assert caution([single]) == CAUTION and "search.confirm.repeats=3" in CAUTION
    alone, both = caution([measured]), caution([measured, single])
    assert "One seed" not in alone and "5 candidates were run 3 times each on fresh seeds and label draws" in alone
    assert f"floor {measured.noise('test').floor:.2f} with 8 degrees" in alone
    assert both.startswith(alone) and "1/16 (16): one seed" in both


def test_one_repeat_measures_no_noise_and_is_not_judged() -> None:
    summary = summary_of(a_confirmed_search(repeats=1))
    line = line_of(summary, "cid")
    assert line["repeats"] == 1 and line["sd"] is line["floor"] is line["judged"] is None
    assert caution([summary]) == CAUTION and "±" not in verdict(summary)


def test_runs_that_do_not_share_seed_and_draw_are_no_pair() -> None:
    rows = a_confirmed_search()
    for row in rows:
        if row["run"] == "1_16-cid-001-pair2":
            row["seed"] = 5
    assert summary_of(rows).noise("test").pairs == 2


def test_a_method_that_was_not_repeated_has_no_numbers_of_repeats() -> None:
    rows = [row for row in a_confirmed_search() if not row["run"].startswith("1_16-pool_bn-000-pair")]
    summary = summary_of(rows)
    assert line_of(summary, "pool_bn")["mean"] is None and line_of(summary, "cid")["repeats"] == 3
    assert "batch norm" not in verdict(summary)


def test_noise_rows_hold_what_is_printed_and_are_not_read_back_as_scores(tmp_path: Path) -> None:
    rows = a_confirmed_search(16) + a_confirmed_search(8)
    before = summarize(rows)
    told = noise_rows(before)
    assert [(r["ratio"], r["split"]) for r in told] == [
        ("1/8", "val"),
        ("1/8", "test"),
        ("1/16", "val"),
        ("1/16", "test"),
    ]
    for row in (*rows, *told, *noise_rows(summarize([*rows, *told]))):  # written twice, as a resumed search does
        Rows(tmp_path).add(row)
    again = read_rows(tmp_path)
    assert [row for row in again if row["event"] == "noise"] == json.loads(json.dumps(told))
    assert table(summarize(again)) == table(before)
    row = told[3]
    assert row["floor"] == line_of(before[1], "cid")["floor"] and row["n"] == 3 and row["df"] == 8
    assert row["differences"]["cid"]["supervised"] == line_of(before[1], "cid")["gain"]
    assert row["means"]["1_16-cid-001"] == line_of(before[1], "cid")["mean"] and len(row["means"]) == 5


def test_figures_show_means_spreads_and_floors() -> None:
    summary = summary_of(a_confirmed_search())
    noise: Noise = summary.noise("test")
    assert figures.label_curve_data([summary])["cid"] == [(16, pytest.approx(50.2))]
    assert figures.spread_data([summary])["cid"] == [(16, pytest.approx(50.2), noise.sd("1_16-cid-001"))]
    assert figures.floor_data([summary]) == [(16, pytest.approx(48 - noise.floor), pytest.approx(48 + noise.floor))]
    single = summary_of(a_confirmed_search(repeats=0))
    assert figures.label_curve_data([single])["cid"] == [(16, pytest.approx(61.6))]
    assert figures.spread_data([single]) == {} and figures.floor_data([single]) == []


def test_slices_hold_trials_of_full_length_only() -> None:
    rows = a_confirmed_search()
    pruned = {**rung("1_16-cid-003", "cid", 16, 5, 60.0), "params": {"loss.relation_weight": 9.0}}
    slices = figures.slices_data(
        [summary_of([*rows, pruned, {"event": "trial", "run": "1_16-cid-003", "state": "pruned"}])]
    )
    assert slices["loss.relation_weight"] == {"1/16 (16)": [(1.0, 45.0), (0.1, 51.0), (0.01, 51.5)]}
    assert [value for value, _ in slices["loss.relation_kind"]["1/16 (16)"]] == ["self", "cross", "self"]


def test_an_axis_is_as_its_values_are() -> None:
    drawn_on_a_log_scale, drawn_evenly = [0.01, 0.03, 0.1, 0.4, 1.0], [0.01, 0.2, 0.4, 0.6, 0.8]
    assert figures.scale_of(drawn_on_a_log_scale) == "log" and figures.scale_of(drawn_evenly) == "linear"
    assert figures.scale_of([0.0, *drawn_on_a_log_scale]) == figures.scale_of([0.1, 0.11, 0.12, 0.5]) == "linear"
    assert figures.scale_of([True, False]) == figures.scale_of([1, "auto"]) == "category"


def test_the_pareto_front_stands_apart_from_the_other_full_trials() -> None:
    data = figures.pareto_data(summary_of(a_confirmed_search()))
    assert data == {"front": [(5.0, 45.0), (7.0, 51.5)], "others": [(6.0, pytest.approx(62.6))]}


def test_settings_are_told_ratio_by_ratio() -> None:
    summaries = summarize(a_confirmed_search(16) + a_confirmed_search(8))
    del summaries[0].search["top"]["x"]
    assert [top is None for top in settings_by_ratio(summaries)["x"]] == [True, False]
    assert dict(moved(summaries))["loss.relation_weight"] == ["0.1 (0.01 – 0.1)"] * 2
    assert dict(moved(summaries))["x"] == ["–", "a (a, b)"]


def test_page_markdown_and_text_show_the_same_judgement(tmp_path: Path) -> None:
    rows = a_confirmed_search(16) + a_confirmed_search(8)
    summaries = summarize(rows)
    page = write_page(tmp_path, tmp_path / "report", rows, Config()).read_text()
    line = line_of(summaries[1], "cid")
    for text in (page, markdown(summaries), report.as_text(summaries)):
        assert f"{line['mean']:.2f} ± {line['sd']:.2f}" in text and "+2.20" in text and "above noise" in text
    assert page.count("<svg") == 6 and "a measure &lt;of&gt; some kind" in page
    assert "One seed and one label draw" not in page + markdown(summaries)
    for heading in ("How settings moved with the label count", "Score against cost", "What was repeated"):
        assert heading in page


def test_a_kept_run_gives_the_table_and_verdicts_that_were_kept_with_it() -> None:
    summaries = summarize(read_rows(KEPT_RUN))
    kept, told = (KEPT_RUN / "report" / "report.md").read_text(), markdown(summaries)
    lines = [line for line in kept.splitlines() if line.startswith("|")]
    assert lines == [line for line in told.splitlines() if line.startswith("|")] and len(lines) > 2
    assert all(f"**{s.name}.** {verdict(s)}" in kept for s in summaries)
    assert caution(summaries) in told


def test_a_run_without_repeats_has_a_page_without_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    a_search(folder)
    rows = read_rows(folder)
    assert noise_rows(summarize(rows)) == []
    page = write_page(folder, tmp_path / "report", rows, Config()).read_text().partition("<summary>")[0]
    assert CAUTION in page and "PED-ANOVA over trials of full length only; with few" in page
    for absent in ("epeats", "noise<br>", "judged", "How settings moved", "Score against cost"):
        assert absent not in page.replace(CAUTION, "")
