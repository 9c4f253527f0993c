"""Laws of a comparison of runs: a copy differs in nothing, the other order negates every
difference, and no judgement is made where repeats are no pairs.

References are scipy's paired t test, made-up searches with known means (tests/helpers/records.py),
the kept CamVid run, and real searches of a tiny network.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from scipy.stats import ttest_rel

import cid_ray
from benchmarks.harness.chaos import simulated_config, uninterrupted
from cid_ray.config import InputError, build_config
from cid_ray.report import main as report
from cid_ray.results.comparison_page import write_comparison
from cid_ray.results.comparison_text import TRIES, comparison_markdown, sections, terminal_text
from cid_ray.results.noise import holm
from cid_ray.results.records import Record, RecordWriter, read_records
from cid_ray.results.run_comparison import RunComparison, RunTotals, compare_runs
from cid_ray.results.score_comparison import MethodScores, ScoreDifference
from cid_ray.search.controller import Decision, Search
from cid_ray.storage.run_dir import RunDir
from cid_ray.train import main as train_command
from tests.helpers import records as made
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.tiny_run import TINY

SPACE = {
    "loss.relation_weight": {"float": [0.01, 1.0], "log": True},
    "loss.relation_kind": {"choice": ["self", "cross"]},
}
TEST = "test/miou_teacher"
FILES = {"index.html", "comparison.md", "comparison.json"}
Change = Callable[[Record], Any]


def make_run(
    folder: Path,
    records: list[Record] | None = None,
    config: Mapping[str, Any] | None = None,
    change: Change = lambda record: None,
) -> Path:
    """A run folder of a made-up search with three repeats; `change` edits every record."""
    writer = RecordWriter(folder)
    writer.path.touch()
    for record in made.repeated_search() if records is None else records:
        change(record)
        writer.append(record)
    tree = {"search": {"space": SPACE}}
    (folder / "config.yaml").write_text(build_config(tree, config or {}).to_yaml())
    return folder


def shift_repeats(seed: int, mean: float, spread: float) -> Change:
    """Add a number by chance to the test score of every repeat."""
    rng = random.Random(seed)

    def change(record: Record) -> None:
        if record["event"] == "final" and record["repeats_of"]:
            record[TEST] += rng.gauss(mean, spread)

    return change


def set_in_scored(**fields: Any) -> Change:
    """Set fields of every rung and final record."""

    def change(record: Record) -> None:
        if record["event"] in ("rung", "final"):
            record.update(fields)

    return change


def repeats_of(folder: Path) -> dict[str, list[float]]:
    """The chosen run of each method -> test scores of its repeats, in order."""
    found: dict[str, list[float]] = {}
    for record in read_records(folder):
        if record["event"] == "final" and record["repeats_of"]:
            found.setdefault(record["repeats_of"], []).append(record[TEST])
    return found


def differences(comparison: RunComparison) -> dict[tuple[str, str, str], ScoreDifference]:
    """Ratio, method and run -> its difference to the first run."""
    return {
        (each.ratio, each.method, name): scores.difference
        for each in comparison.methods
        for name, scores in each.runs.items()
        if scores.difference is not None
    }


def scores_of(comparison: RunComparison, run: str, method: str = "cid") -> MethodScores:
    return next(each.runs[run] for each in comparison.methods if each.method == method)


def difference_of(comparison: RunComparison, run: str, method: str = "cid") -> ScoreDifference:
    found = scores_of(comparison, run, method).difference
    assert found is not None
    return found


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return make_run(tmp_path / "before")


@pytest.fixture
def after(tmp_path: Path) -> Path:
    """The same search with scores that differ, a little or much."""
    return make_run(tmp_path / "after", change=shift_repeats(1, 0.5, 0.3))


# ---- laws ----


@pytest.mark.parametrize("kind", ["kept", "repeated"])
def test_copy_of_a_run_differs_in_nothing(kind: str, tmp_path: Path, before: Path) -> None:
    run = KEPT_RUN if kind == "kept" else before
    copy = shutil.copytree(run, tmp_path / "copy")
    comparison = compare_runs([run, copy])
    assert not (comparison.config or comparison.data or comparison.software)
    assert not comparison.cautions
    found = differences(comparison)
    assert len(found) == (8 if kind == "kept" else 4)
    assert all(each.val == each.test == 0 for each in found.values())
    wanted = ("", "one seed") if kind == "kept" else ("no difference", "")
    assert {(each.judgement, each.reason) for each in found.values()} == {wanted}
    text = terminal_text(comparison)
    for line in ("The same configuration.", "The same data.", "The same versions, commit"):
        assert line in text
    assert " has no " not in text and "cannot" not in text and TRIES not in text


def test_other_order_negates_every_difference(before: Path, after: Path) -> None:
    there = differences(compare_runs([before, after]))
    back = differences(compare_runs([after, before]))
    assert len(there) == len(back) == 4
    for (ratio, method, _), first in there.items():
        second = back[ratio, method, "before"]
        assert first.paired and second.paired and first.paired.mean != 0
        assert (second.val, second.test) == (-first.val, -first.test)  # type: ignore[operator]
        assert second.paired.mean == -first.paired.mean
        assert (second.paired.low, second.paired.high) == (-first.paired.high, -first.paired.low)
        assert second.paired.adjusted_p == first.paired.adjusted_p
        assert second.judgement == first.judgement


def test_interval_and_p_are_those_of_scipys_paired_t_test(before: Path, after: Path) -> None:
    comparison = compare_runs([before, after])
    first, second = repeats_of(before), repeats_of(after)
    p_values = {}
    for each in comparison.methods:
        chosen = each.runs["after"].chosen
        assert chosen is not None
        paired = difference_of(comparison, "after", each.method).paired
        expected = ttest_rel(second[chosen], first[chosen])
        interval = expected.confidence_interval(0.95)
        assert paired is not None and paired.pairs == 3
        assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))
        assert paired.p == pytest.approx(expected.pvalue)
        p_values[each.method] = paired.p
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    for method, p in adjusted.items():
        found = difference_of(comparison, "after", method)
        assert found.paired and found.paired.adjusted_p == p
        assert found.judgement == ("above noise" if p < 0.05 else "within noise")


def test_difference_beyond_its_own_interval_may_be_within_the_noise_of_its_family(
    before: Path, tmp_path: Path
) -> None:
    def change(record: Record) -> None:
        if record["event"] == "final" and record["repeats_of"]:
            gain = (0.8, 1.0, 1.4) if record["method"] == "cid" else (-1.0, 0.1, 0.8)
            record[TEST] += gain[record["repeat_index"] - 1]

    found = difference_of(
        compare_runs([before, make_run(tmp_path / "x", change=change)]), "x", "cid"
    )
    assert found.paired and found.paired.low > 0 and found.paired.p < 0.05
    assert found.paired.adjusted_p > 0.05 and found.judgement == "within noise"


def test_scores_are_those_of_the_records(before: Path, after: Path) -> None:
    found = scores_of(compare_runs([before, after]), "before")
    assert (found.ratio_name, found.tries, found.repeats) == ("1/16 (16)", 3, 3)
    assert found.chosen == made.run_name("cid", 16, 1)
    assert found.test == pytest.approx(61.6) and found.val == pytest.approx(62.6)
    assert found.mean == pytest.approx(50.2) and found.sd == pytest.approx(0.87, abs=0.01)
    assert found.seconds == pytest.approx(3.0) and found.difference is None


def test_student_is_compared_where_the_metric_says_so(before: Path, after: Path) -> None:
    teacher = difference_of(compare_runs([before, after]), "after").paired
    student = difference_of(compare_runs([before, after], "val/miou"), "after").paired
    assert teacher and teacher.mean != 0
    assert student and student.mean == 0  # only scores of the teacher were changed


# ---- why there is no judgement ----


def other_seeds(record: Record) -> None:
    if record.get("repeats_of") and "seed" in record:
        record["seed"] += 50


def other_splits(record: Record) -> None:
    if record.get("repeats_of") and "split_id" in record:
        record["split_id"] = "f" * 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"change": other_seeds}, "no shared repeats"),
        ({"change": other_splits}, "no shared repeats"),
        ({"change": set_in_scored(data="f" * 16)}, "different data"),
        ({"records": made.repeated_search(repeats=1)}, "one shared repeat"),
        ({"records": made.repeated_search(repeats=0)}, "no repeats in after"),
    ],
    ids=["seeds", "splits", "table", "one", "none"],
)
def test_repeats_that_are_no_pairs_are_not_judged(
    changes: dict[str, Any], reason: str, before: Path, tmp_path: Path
) -> None:
    comparison = compare_runs([before, make_run(tmp_path / "after", **changes)])
    found = difference_of(comparison, "after")
    assert (found.paired, found.judgement, found.reason) == (None, "", reason)
    assert (found.test is None) == (reason == "different data")
    assert f"none: {reason}" in comparison_markdown(comparison)


def test_runs_without_repeats_have_one_seed(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, [r for r in made.repeated_search() if not r["repeats_of"]])
        for name in ("a", "b")
    ]
    assert difference_of(compare_runs(runs), "b").reason == "one seed"


def test_other_table_is_said_before_any_score(before: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", change=set_in_scored(data="f" * 16))
    comparison = compare_runs([before, other])
    first_line = terminal_text(comparison).splitlines()[0]
    assert first_line == (
        "Scores of other cannot be compared with those of before: the contents of their tables "
        "differ (0123456789abcdef and ffffffffffffffff)."
    )
    assert [each.what for each in comparison.data] == ["table content"]


def test_other_test_images_of_one_table_are_said_before_any_score(tmp_path: Path) -> None:
    """Without a test split a part of the label budget is val, and test too."""
    budget = {"data.val_from_budget": 0.25}
    on_val = {"test_is_val": True, "test_split": "val"}
    runs = [
        make_run(tmp_path / name, None, budget, set_in_scored(**on_val, split_id=name * 12))
        for name in ("a", "b")
    ]
    comparison = compare_runs(runs)
    assert comparison.cautions[0] == (
        "Scores of b cannot be compared with those of a at 1/16: the test images differ."
    )
    assert "no test split in a, b" in comparison.cautions[1]
    found = difference_of(comparison, "b")
    assert (found.val, found.test, found.reason) == (None, None, "different data")


def test_val_of_the_label_budget_is_compared_on_equal_images_only(tmp_path: Path) -> None:
    budget = {"data.val_from_budget": 0.25}
    runs = [
        make_run(tmp_path / name, None, budget, set_in_scored(split_id=name * 12)) for name in "ab"
    ]
    found = difference_of(compare_runs(runs), "b")
    assert found.val is None and found.test == 0


def test_different_networks_and_runs_without_scores_are_said_first(
    before: Path, tmp_path: Path
) -> None:
    student = make_run(tmp_path / "student", None, {"search.metric": "val/miou"})
    empty = make_run(tmp_path / "empty", [])
    cautions = compare_runs([before, student, empty]).cautions
    assert "of before the teacher, of student the student" in cautions[0]
    assert cautions[1] == "There is no score yet in empty."


# ---- what differs ----


def test_configuration_lists_only_keys_whose_values_differ(before: Path, tmp_path: Path) -> None:
    space = {
        "loss.relation_weight": {"float": [0.01, 2.0], "log": True},
        "loss.relation_kind": {"choice": ["self", "cross"]},
        "loss.style_weight": 0.5,
    }
    other = make_run(
        tmp_path / "other",
        None,
        {
            "loss.conf_thresh": 0.9,
            "search.space": space,
            "search.callbacks": {"mlflow": {"experiment": "x"}},
        },
    )
    found = {each.what: each.values for each in compare_runs([before, other]).config}
    assert found == {
        "loss.conf_thresh": {"before": 0.95, "other": 0.9},
        "search.callbacks.mlflow.experiment": {"other": "x"},
        "search.space loss.relation_weight": {
            "before": SPACE["loss.relation_weight"],
            "other": space["loss.relation_weight"],
        },
        "search.space loss.style_weight": {"other": 0.5},
    }
    rows = sections(compare_runs([before, other]))[0].rows
    assert ["search.space loss.style_weight", "–", "0.5"] in rows


def test_close_values_of_a_key_are_shown_apart(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, None, {"optim.lr": lr})
        for name, lr in (("a", 0.0012345678), ("b", 0.0012345679))
    ]
    assert sections(compare_runs(runs))[0].rows == [["optim.lr", "0.0012345678", "0.0012345679"]]


def test_data_versions_and_device_name_what_differs(before: Path, tmp_path: Path) -> None:
    change = set_in_scored(pool_count=9, git="abc+", versions={"cid_ray": "0.2.0", "torch": "2"})
    comparison = compare_runs([before, make_run(tmp_path / "after", change=change)])
    assert {each.what for each in comparison.data} == {
        f"pool images of 1/16, draw {draw}" for draw in range(4)
    }
    assert {each.what: each.values for each in comparison.software} == {
        "cid_ray": {"before": "0.1.0", "after": "0.2.0"},
        "git": {"before": None, "after": "abc+"},
        "torch": {"after": "2"},
    }
    assert ["git", "unknown", "abc+"] in sections(comparison)[2].rows


def test_ratios_and_methods_of_one_run_only_are_named(before: Path, tmp_path: Path) -> None:
    without_cid = [r for r in made.repeated_search() if r["method"] != "cid"]
    other = make_run(tmp_path / "other", [*without_cid, *made.repeated_search(8)])
    comparison = compare_runs([before, other])
    assert sections(comparison)[3].lines == [
        "before has no run at 1/8 (8).",
        "other has no CID at 1/16 (16).",
    ]
    assert ("1/8", "cid", "other") not in differences(comparison)
    assert differences(comparison)["1/16", "mean_teacher", "other"].judgement == "no difference"


def test_totals_count_trials_by_their_end(before: Path, tmp_path: Path) -> None:
    stale = made.finished("cid", 16, 8) | {"event": "stale", "reason": "", "timestamp": 1.0}
    del stale["state"]
    extra = [
        made.rung("cid", 16, 6, 5, 40.0),
        made.finished("cid", 16, 6, "pruned"),
        made.finished("cid", 16, 7, "failed"),
        made.rung("cid", 16, 8, 5, 41.0),
        stale,
        made.rung("cid", 16, 9, 5, 42.0),
    ]
    other = make_run(tmp_path / "other", [*made.repeated_search(), *extra])
    first, second = compare_runs([before, other]).runs
    assert first.seconds == pytest.approx(22 * 3.0)
    assert replace(first, seconds=0.0) == RunTotals(
        "before", str(before), "val/miou_teacher", 7, 0, 0, 0, 0, repeats=15, seconds=0.0
    )
    ends = (second.complete, second.pruned, second.failed, second.stale, second.unfinished)
    assert ends == (7, 1, 1, 1, 1)
    assert second.seconds == pytest.approx(first.seconds + 3 * 1.5)
    turned = compare_runs([other, before])
    assert (scores_of(turned, "other").tries, scores_of(turned, "before").tries) == (7, 3)
    assert TRIES in terminal_text(turned)


def test_three_runs_are_each_compared_with_the_first(
    before: Path, after: Path, tmp_path: Path
) -> None:
    third = make_run(tmp_path / "third", change=shift_repeats(2, -1.0, 0.1))
    of_three = differences(compare_runs([before, after, third]))
    assert {run for _, _, run in of_three} == {"after", "third"}
    for other in (after, third):
        for key, alone in differences(compare_runs([before, other])).items():
            together = of_three[key]
            assert alone.paired and together.paired
            assert together.paired.mean == alone.paired.mean
            assert together.paired.adjusted_p >= alone.paired.adjusted_p  # a larger family


# ---- real runs ----


def real_search(folder: Path, table: Path, **changes: Any) -> Path:
    """A supervised baseline and a CID trial of a tiny network, each repeated twice."""
    search = {
        "search.ratios": ["1/4"],
        "search.trials": 1,
        "search.baselines": ["supervised"],
        "search.space": {"loss.relation_weight": {"float": [0.01, 1.0]}},
        "search.repeats": {"n": 2},
        "train.steps": 2,
        "train.rungs": [1.0],
        "train.num_sample_images": 0,
        "data.table": str(table),
    }
    with Search.open(build_config(TINY, {**search, **changes}), RunDir(folder)) as open_search:
        while (trial := open_search.next_trial()) is not None:
            for record in cid_ray.train(
                trial.config, folder, trial.name, score_test=trial.score_test, cpus=1
            ):
                if open_search.report(record) is Decision.STOP:
                    break
        open_search.finalize()
    return folder


@pytest.mark.process
def test_real_searches_and_a_training_are_compared(
    small_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = real_search(tmp_path / "first", small_demo)
    second = real_search(tmp_path / "second", small_demo, **{"optim.lr": 0.05})
    changes = ["train.steps=2", "train.rungs=[1.0]", "train.num_sample_images=0"]
    changes += ["data.ratio=1/4", f"data.table={small_demo}", "method=supervised"]
    changes += ["model.encoder=test_efficientnet", "model.decoder=fpn", "data.crop_size=32"]
    training = ["--out", str(tmp_path / "alone")]
    for change in changes:
        training += ["--set", change]
    assert train_command(training) == 0
    capsys.readouterr()
    out = tmp_path / "page"
    assert report([str(first), str(second), str(tmp_path / "alone"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    comparison = compare_runs([first, second, tmp_path / "alone"])
    assert terminal_text(comparison) in text and text.endswith(f"wrote {out / 'index.html'}\n")
    assert {"optim.lr"} == {each.what for each in compare_runs([first, second]).config}
    assert not comparison.cautions and not comparison.data
    assert "alone has no CID at 1/4 (12)." in text
    for method in ("supervised", "cid"):
        paired = difference_of(comparison, "second", method).paired
        assert paired is not None and paired.pairs == 2
    assert difference_of(comparison, "alone", "supervised").reason == "no repeats in alone"
    totals = comparison.runs
    assert [(run.complete, run.repeats) for run in totals] == [(2, 4), (2, 4), (1, 0)]


def test_stopped_search_is_compared_with_a_finished_one(halfway: Path, tmp_path: Path) -> None:
    simulated = tmp_path / "simulated"
    uninterrupted(simulated, simulated_config(trials=2))
    comparison = compare_runs([halfway, simulated])
    assert comparison.runs[0].unfinished >= 1 and comparison.runs[1].unfinished == 0
    assert "cannot be compared" in comparison.cautions[0]
    assert "cid" in {each.method for each in comparison.methods}


# ---- files ----


def test_json_holds_all_that_text_and_page_are_made_of(
    before: Path, after: Path, tmp_path: Path
) -> None:
    comparison = compare_runs([before, after])
    write_comparison(comparison, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    text = (tmp_path / "out" / "comparison.json").read_text()
    read = TypeAdapter(RunComparison).validate_json(text)
    assert read == comparison
    assert terminal_text(read) == terminal_text(comparison)
    assert (tmp_path / "out" / "comparison.md").read_text() == comparison_markdown(read)
    cells = [cell for section in sections(read) for row in section.rows for cell in row]
    page = (tmp_path / "out" / "index.html").read_text()
    assert len(cells) > 80 and all(cell in page for cell in cells)
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_without_out_nothing_is_written(
    before: Path, after: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    files = written()
    monkeypatch.chdir(tmp_path)
    assert report([str(before), str(after)]) == 0
    assert written() == files


def test_runs_of_one_name_are_called_by_their_folders(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        make_run(tmp_path / folder / "run")
    names = [str(tmp_path / folder / "run") for folder in ("old", "new")]
    assert compare_runs(names).names == names


def test_name_of_a_folder_never_becomes_markup(before: Path, tmp_path: Path) -> None:
    name = "a|`b`<img src=x>[c](d)\x1b[31m"
    hostile = make_run(tmp_path / name, config={"data.table": "<b>"})
    comparison = compare_runs([before, hostile])
    write_comparison(comparison, tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "<img" not in page and "<b>" not in page and "&lt;img src=x&gt;" in page
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "<img" not in text and "\x1b" not in page + text + terminal_text(comparison)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"][1]["name"] == name


# ---- mistakes ----


def damage_config(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "after is not a run folder: it has no records.jsonl"),
        (lambda run: (run / "config.yaml").unlink(), "after is not a run folder: it has no config"),
        (lambda run: damage_config(run, "loss: {}\n"), "after/config.yaml is damaged: it lacks"),
        (lambda run: damage_config(run, "a: [\n"), "after/config.yaml, line 2: not valid YAML"),
        (
            lambda run: damage_config(
                run, (run / "config.yaml").read_text().replace("hflip: 0.5", "hflip: 5")
            ),
            r"after/config.yaml: `data.hflip` is 5.*less than or equal to 1",
        ),
    ],
    ids=["folder", "no config", "part", "yaml", "value"],
)
def test_folder_that_cannot_be_compared_is_named(
    damage: Callable[[Path], Any], message: str, before: Path, after: Path
) -> None:
    damage(after)
    with pytest.raises(InputError, match=message):
        report([str(before), str(after)])


def test_same_run_twice_is_a_mistake_under_any_name(before: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(before)
    for other in (before, f"{tmp_path}/./before/", tmp_path / "link"):
        with pytest.raises(InputError, match=r"is the same run as .*before; name each run once"):
            report([str(before), str(other)])
    with pytest.raises(InputError, match=r"s3://b/run/ is the same run as s3://b/run"):
        report(["s3://b/run", "s3://b/run/"])


def test_ladder_among_runs_is_a_mistake(before: Path) -> None:
    ladder = KEPT_RUN.parent / "scaling" / "demo-labels"
    with pytest.raises(
        InputError, match=r"demo-labels is the folder of a ladder 'labels'.*cid_ray\.report"
    ):
        report([str(before), str(ladder)])


def test_options_of_one_run_are_refused_for_several(
    before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--set", "loss.conf_thresh=0.5"], ["--config", "demo"], ["--target", "60"]):
        with pytest.raises(InputError, match="compared as they were configured"):
            report([str(before), str(after), *option])
    assert report([str(before), str(after), "--set", "search.metric=val/miou"]) == 0
    assert "no difference" in capsys.readouterr().out  # of the student's scores


def test_comparison_of_one_run_is_a_mistake(before: Path) -> None:
    with pytest.raises(InputError, match="two run folders or more"):
        compare_runs([before])
