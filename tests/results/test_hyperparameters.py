"""Laws of what is said of each hyperparameter, and of the figures that show it.

The search is made up: the best threshold moves with the labels, `transfer` is the best kind.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cid_ray.config import load_config
from cid_ray.results.answers import answer
from cid_ray.results.figure_data import (
    MAX_CURVES,
    completed_trials,
    scale_of_key,
    shown_trials,
    slices_data,
)
from cid_ray.results.hyperparameters import (
    MIN_RELIABLE_TRIALS,
    Hyperparameter,
    hyperparameters,
    importances_at,
)
from cid_ray.results.movements import movements
from cid_ray.results.parallel_figure import MAX_AXES, ParallelAxis, draw_parallel
from cid_ray.results.records import Record
from cid_ray.results.report_page import write_page
from cid_ray.results.slices_figure import draw_importances, draw_slices
from cid_ray.results.smooth_fit import MIN_TRIALS
from cid_ray.results.summary import RatioSummary, summarize
from tests.helpers.records import finished, full_trial, rung
from tests.helpers.searches import KEYS, searched

NUM_TRIALS = MIN_RELIABLE_TRIALS + 8


def said_of(records: list[Record]) -> dict[str, Hyperparameter]:
    summaries = summarize(records)
    return {each.key: each for each in hyperparameters(summaries, movements(summaries))}


def test_each_hyperparameter_has_one_sentence() -> None:
    said = said_of(searched(NUM_TRIALS))
    assert set(said) == set(KEYS)
    threshold = said["loss.conf_thresh"].text()
    assert threshold.startswith("loss.conf_thresh falls with fewer labels: 0.")
    assert threshold.endswith(
        "; importance 0.55 at 1/16 (16) of 40 trials and 0.55 at 1/64 (64) of 40 trials"
    )
    assert "cannot be told (p " in said["loss.pseudo_burn_in"].text()


def test_best_choice_is_said_where_it_is_above_all_others() -> None:
    kind = said_of(searched(3 * NUM_TRIALS))["loss.relation_kind"]
    few, many = kind.choices
    assert few.means[0].value == many.means[0].value == "transfer"
    for each in (few, many):
        assert each.p is not None and each.p < 0.05 and each.best == "transfer"
        mean, p = f"{each.means[0].mean:.2f}", "p < 0.001"
        assert f"values differ at {each.ratio}, {p}, best choice: transfer, {mean} (" in kind.text()
    without = [
        {**r, "params": {**r["params"], "loss.relation_kind": "ab"[r["trial_number"] % 2]}}
        if "params" in r
        else r
        for r in searched(NUM_TRIALS)
    ]
    assert "cannot be told at 1/16 (16) (p " in said_of(without)["loss.relation_kind"].text()


def of_kinds(scores: dict[str, list[float]]) -> Hyperparameter:
    trials = [(kind, score) for kind, own in scores.items() for score in own]
    records = [
        record
        for number, (kind, score) in enumerate(trials)
        for record in full_trial("cid", 16, number, score, **{"loss.relation_kind": kind})
    ]
    return said_of(records)["loss.relation_kind"]


def spread(mean: float, trials: int) -> list[float]:
    return list(np.linspace(mean - 1, mean + 1, trials))


def test_value_with_few_trials_is_not_the_best_choice() -> None:
    kind = of_kinds({"self": spread(50.0, 10), "cross": spread(40.0, 10), "transfer": [60.0]})
    (choices,) = kind.choices
    assert choices.means[0].value == "transfer" and choices.best is None
    assert kind.text().startswith(
        "loss.relation_kind: values differ at 1/16 (16), p < 0.001, best mean so far: self, 50.00 ("
    )
    assert kind.text().endswith(", 10 trials)")
    without = of_kinds({"self": spread(50.0, 10), "cross": spread(40.0, 10)})
    assert without.choices[0].p == choices.p and without.choices[0].best == "self"


def test_values_whose_intervals_overlap_have_no_best_choice() -> None:
    scores = {"self": spread(50.0, 10), "cross": spread(49.9, 10), "class": spread(40.0, 10)}
    kind = of_kinds(scores)
    assert kind.choices[0].best is None and kind.choices[0].record()["best"] is None
    assert "values differ" in kind.text() and "best mean so far: self, 50.00 (" in kind.text()


def test_values_with_few_trials_alone_cannot_be_compared() -> None:
    kind = of_kinds({"self": spread(50.0, 20), "cross": [40.0, 41.0]})
    assert kind.text() == "loss.relation_kind: cannot be told at 1/16 (16) (22 completed trials)"


def test_too_few_trials_are_said_of_choices_and_importances() -> None:
    kind = said_of(searched(10))["loss.relation_kind"]
    assert kind.choices[0].p is None
    assert "cannot be told at 1/16 (16) (10 completed trials)" in kind.text()
    assert "of 10 trials (not reliable)" in kind.text()


@pytest.mark.parametrize("trials", [MIN_RELIABLE_TRIALS - 1, MIN_RELIABLE_TRIALS])
def test_importance_is_reliable_from_a_number_of_its_own_trials_on(trials: int) -> None:
    (summary, _) = summarize(searched(trials))
    found = {each.key: each for each in importances_at(summary)}
    assert found["loss.conf_thresh"].trials == trials
    assert found["loss.conf_thresh"].enough_trials == (trials == MIN_RELIABLE_TRIALS)
    conditional = found["loss.relation_temperature"]
    having = sum("loss.relation_temperature" in params for params, _ in completed_trials(summary))
    assert conditional.trials == having and not conditional.enough_trials


def test_old_records_count_all_completed_trials_behind_an_importance() -> None:
    records = searched(12)
    for record in records:
        record.pop("importance_trials", None)
    assert {each.trials for each in importances_at(summarize(records)[0])} == {12}


def test_answers_file_holds_every_number_of_the_sentences(tmp_path: Path) -> None:
    records = searched(NUM_TRIALS)
    page = write_page(tmp_path, tmp_path, records, load_config(None)).read_text()
    kept = json.loads((tmp_path / "answers.json").read_text())
    assert kept == json.loads(json.dumps(answer(summarize(records)).record()))
    numbers = {f"{n:.2f}" for n in floats_of(kept)} | {f"{n:.4g}" for n in floats_of(kept)}
    for each in said_of(records).values():
        text = each.text()
        assert text in page and text in (tmp_path / "report.md").read_text()
        said = re.sub(r"at 1/\d+ \(\d+\)|p <? ?[\d.]+", "", text)
        assert set(re.findall(r"\d+\.\d+", said)) <= numbers


def floats_of(value: Any) -> list[float]:
    """Every number within lists and dicts."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [number for each in inner for number in floats_of(each)]
    return [float(value)] if isinstance(value, int | float) else []


# ---- scales ----


def test_scale_is_that_of_the_space_where_the_record_says_it() -> None:
    summaries = summarize(searched(12))
    high = [0.01, 0.6, 0.7, 0.8, 0.9]  # where a sampler has found good values
    assert scale_of_key("loss.relation_weight", high, summaries) == "log"
    assert scale_of_key("loss.conf_thresh", [0.01, 0.02, 0.5], summaries) == "linear"
    assert scale_of_key("loss.relation_weight", ["a"], summaries) == "category"
    for summary in summaries:
        del summary.cid_search["log_hyperparameters"]
    assert scale_of_key("loss.relation_weight", high, summaries) == "linear"


# ---- slices and importances ----


def num_bands(svg: str | None) -> int:
    return len(re.findall(r'<g id="(?:FillBetween)?PolyCollection', svg or ""))


def test_slices_have_a_fit_where_a_ratio_has_enough_trials() -> None:
    numbers = len(KEYS) - 1
    plenty = summarize(searched(3 * MIN_TRIALS))
    assert num_bands(draw_slices(plenty)) == numbers * len(plenty)
    assert num_bands(draw_slices(summarize(searched(MIN_TRIALS - 1)))) == 0


def test_importances_figure_says_the_trials_of_each_bar() -> None:
    svg = draw_importances(summarize(searched(NUM_TRIALS))) or ""
    assert svg.count("0.55, 40 trials") == 2
    assert draw_importances([]) is None


# ---- parallel coordinates ----


def of_many_trials(trials: int) -> RatioSummary:
    records = [
        record
        for number in range(trials)
        for record in full_trial("cid", 16, number, 40 + number / 1000, **{"a.x": number / trials})
    ]
    return summarize(records)[0]


def test_figure_of_many_trials_draws_the_best_and_says_what_is_left_out() -> None:
    summary = of_many_trials(1000)
    shown, which = shown_trials(completed_trials(summary), lambda trial: trial[1])
    assert len(shown) <= MAX_CURVES
    scores = [score for _, score in shown]
    assert scores == sorted(scores)
    best = sorted((score for _, score in completed_trials(summary)), reverse=True)
    assert scores[::-1][: MAX_CURVES // 4] == best[: MAX_CURVES // 4]
    assert which == "the 50 best and one in 7 of the others"
    svg = draw_parallel([summary]) or ""
    assert f"{len(shown)} of 1000 completed CID trials: {which}" in svg
    lines = re.search(r'<g id="LineCollection_1">(.*?)</g>', svg, re.DOTALL)
    assert lines is not None and lines.group(1).count("<path") == len(shown)


def test_small_search_is_drawn_whole() -> None:
    shown, which = shown_trials(completed_trials(of_many_trials(20)), lambda trial: trial[1])
    assert len(shown) == 20 and which == ""
    svg = draw_parallel(summarize(searched(20))) or ""
    assert svg.count("20 completed CID trials") == 2
    assert "not used" in svg  # the temperature, in trials of another kind
    assert draw_parallel(summarize(searched(3))) is None


def test_pruned_trials_are_in_no_figure() -> None:
    pruned = rung("cid", 16, 99, 5, 60.0, params={"loss.conf_thresh": 0.123})
    records = [*searched(20), pruned, finished("cid", 16, 99, state="pruned")]
    assert draw_parallel(summarize(records)) == draw_parallel(summarize(searched(20)))


def test_axis_places_values() -> None:
    linear, log = ParallelAxis("x", 0.0, 2.0, False), ParallelAxis("y", 0.01, 1.0, True)
    assert linear.height(0.5) == 0.25 and log.height(0.1) == pytest.approx(0.5)
    choices = ParallelAxis("z", 0, 1, False, ("a", "b"))
    assert (choices.height("a"), choices.height("b")) == (0.25, 0.75)
    with_none = ParallelAxis("clip_norm", 0, 1, False, ("1.0", "None"))
    assert (with_none.height(1.0), with_none.height(None)) == (0.25, 0.75)
    assert [text for _, text in log.ticks()] == ["0.01", "0.03", "0.1", "0.3", "1"]
    assert all(0 <= height <= 1 for axis in (linear, log, choices) for height, _ in axis.ticks())
    assert ParallelAxis("same", 3.0, 3.0, False).height(3.0) == 0.5


def lowest_point(svg: str) -> float:
    """The largest y of the trials' lines: SVG counts from the top."""
    lines = re.search(r'<g id="LineCollection_1">(.*?)</g>', svg, re.DOTALL)
    assert lines is not None
    return max(float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", lines.group(1)))


def test_choice_of_null_is_a_level_and_not_an_absence() -> None:
    def drawn(clip_norm: Any) -> str:
        """Every second trial has another value of clip_norm than 1.0."""
        records = []
        for number in range(8):
            params = {"a.x": number, "optim.clip_norm": clip_norm if number % 2 else 1.0}
            records += full_trial("cid", 16, number, 40.0 + number, **params)
        return draw_parallel(summarize(records)) or ""

    null, text = drawn(None), drawn("off")
    assert "not used" not in null and ">None<" in null
    assert lowest_point(null) == lowest_point(text)


def test_of_many_hyperparameters_those_that_matter_are_drawn() -> None:
    keys = [f"a.key{number}" for number in range(MAX_AXES + 3)]
    records = [
        record
        for number in range(20)
        for record in full_trial("cid", 16, number, 40.0 + number, **dict.fromkeys(keys, number))
    ]
    (summary,) = summarize(records)
    summary.searches["cid"] = {"importances": {key: i / 100 for i, key in enumerate(keys)}}
    assert len(slices_data([summary])) == MAX_AXES + 3
    svg = draw_parallel([summary]) or ""
    assert "3 hyperparameters of less importance are left out" in svg
    assert ">key2<" not in svg and ">key3<" in svg and f">key{MAX_AXES + 2}<" in svg
