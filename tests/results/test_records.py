"""Laws of records: a torn or repeated line does no harm, and reports need nothing else.

The reference for tables, verdicts and figures is a made-up search with known scores
(tests/helpers/records.py).
"""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config
from cid_ray.config.search_schema import PricesConfig
from cid_ray.results.answers import answer
from cid_ray.results.figure_data import curves_data, history_data, label_curve_data, thinned
from cid_ray.results.markdown import markdown
from cid_ray.results.next_steps import next_commands
from cid_ray.results.provenance import provenance
from cid_ray.results.records import RecordWriter, read_records
from cid_ray.results.report_page import write_page
from cid_ray.results.summary import RatioSummary, result_table, summarize
from cid_ray.results.text_report import write_report
from cid_ray.results.verdict import verdict
from cid_ray.storage.run_dir import RunDir
from tests.helpers.records import (
    SCORES,
    common_fields,
    final,
    rung,
    search,
    small_search,
    write_small_search,
)

# SVG names its vocabularies by URL; they are not loaded.
NAMESPACES = ("http://www.w3.org", "http://purl.org", "http://creativecommons.org")
ALL_SUBSETS_OF_METHODS = [m for n in range(1, 5) for m in combinations(SCORES, n)]


# ---- the file ----


def test_read_records_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.append(rung("cid", 8, 0, 1, 20.0))
    with writer.path.open("a") as file:
        file.write('{"event": "rung", "run": "a", "ima')
    assert [r["step"] for r in read_records(tmp_path)] == [1]  # no warning: it may be half written
    RecordWriter(tmp_path).append(rung("cid", 8, 0, 2, 20.0))
    with pytest.warns(UserWarning, match="skipped 1 of 3 lines .*line 2: not JSON"):
        assert [r["step"] for r in read_records(tmp_path)] == [1, 2]


def test_read_records_repeated_measurement_counts_once_with_last_value(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for value in (1.0, 2.0):
        writer.append(rung("cid", 8, 0, 5, value))
    writer.append(rung("cid", 8, 1, 5, 3.0))
    assert [r["val/miou_teacher"] for r in read_records(tmp_path)] == [2.0, 3.0]


def test_read_records_retries_and_warnings_of_one_run_are_all_kept(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    fields = {**common_fields("cid", 8), "timestamp": 0.0}
    for attempt in (1, 2):
        writer.append({"event": "retry", **fields, "attempt": attempt, "reason": "killed"})
    for message in ("one", "other"):
        writer.append({"event": "warning", **fields, "message": message})
    assert len(read_records(tmp_path)) == 4


def test_read_records_folder_without_records_is_empty(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []


def test_record_writer_value_that_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        RecordWriter(tmp_path).append({"event": "rung", "run": "a", "loss": math.nan})


def test_provenance_in_record_names_versions_and_is_json() -> None:
    found = provenance()
    assert {"torch", "optuna", "ray"} <= set(found["versions"])
    json.dumps(found)


# ---- table and verdict ----


def test_result_table_has_baselines_and_the_trial_that_val_chose() -> None:
    lines = result_table(summarize(small_search()))
    assert [line["ratio"] for line in lines] == ["1/8 (8)"] * 4 + ["1/16 (16)"] * 4
    assert [line["is_baseline"] for line in lines] == [True, True, True, False] * 2
    cid = lines[3]
    assert cid["run"] == "1_8-cid-002"
    assert cid["test"] == pytest.approx(44.8)
    assert cid["over_supervised"] == pytest.approx(4.0)
    assert cid["best_on_val_test"] == pytest.approx(46.8)


def test_verdict_of_single_runs_follows_the_scores() -> None:
    summary = summarize(small_search())[0]
    assert "CID with 44.80" in verdict(summary) and "+4.00 over supervised" in verdict(summary)
    summary.chosen["supervised"] = final("supervised", 8, 60.0)
    assert "does not pay" in verdict(summary)
    summary.chosen["supervised"] = final("supervised", 8)
    summary.chosen["mean_teacher"] = final("mean_teacher", 8, 50.0)
    assert "Best on test: mean teacher" in verdict(summary) and "do not pay" in verdict(summary)
    summary.chosen["self_training"] = final("self_training", 8, 51.0)
    text = "Best on test: self-training with 51.80"
    assert text in verdict(summary) and "CID does not pay over it" in verdict(summary)


@pytest.mark.parametrize("methods", ALL_SUBSETS_OF_METHODS, ids="+".join)
def test_verdict_of_stopped_search_exists_for_any_finished_methods(
    methods: tuple[str, ...],
) -> None:
    text = verdict(stopped_search(methods))
    with_baseline = {"supervised"} < set(methods)
    assert ("No CID trial" in text) == ("cid" not in methods and with_baseline)
    assert ("Not enough" in text) == (not with_baseline)


def stopped_search(methods: tuple[str, ...]) -> RatioSummary:
    """A search that was stopped when these methods had a finished run."""
    best = "1_8-cid-000" if "cid" in methods else None
    unfinished = rung("cid", 8, 7, 5, 30.0)
    finals = [final(method, 8) for method in methods]
    return summarize([unfinished, *finals, search("cid", 8, best)])[0]


# ---- figures and page ----


def test_figure_data_has_the_scores_of_the_records() -> None:
    summaries = summarize(small_search())
    supervised = label_curve_data(summaries)["supervised"]
    expected: list[Any] = [(8, pytest.approx(40.8)), (16, pytest.approx(41.6))]
    assert supervised == expected
    history = history_data(summaries[0])
    assert [(t["trial"], t["state"], t["best"]) for t in history] == [
        (0, "complete", 40.0),
        (1, "pruned", 40.0),
        (2, "complete", 45.0),
    ]
    assert history[1]["fraction"] == 0.5
    assert curves_data(summaries[0])["1_8-cid-002"]["points"] == [(40, 40.0), (80, 45.0)]


@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (300, 300), (301, 151), (1000, 250)])
def test_thinned_points_are_every_nth_and_few(count: int, shown: int) -> None:
    points = list(range(count))
    found = list(thinned(points))
    assert len(found) == shown and found[:1] == points[:1]
    assert len({second - first for first, second in pairwise(found)}) <= 1


def test_report_page_is_one_file_that_escapes_data(tmp_path: Path) -> None:
    records = small_search()
    page = write_page(tmp_path, tmp_path / "report", records, Config()).read_text()
    assert "&lt;road&gt;" in page and "<road>" not in page
    without_namespaces = page
    for namespace in NAMESPACES:
        without_namespaces = without_namespaces.replace(namespace, "")
    assert "http://" not in without_namespaces
    assert 'src="http' not in page and "<script" not in page
    assert page.count("<svg") == 5
    for line in result_table(summarize(records)):
        assert f"{line['test']:.2f}" in page
    assert "44.80" in markdown(summarize(records), answer(summarize(records), PricesConfig()))


def test_next_commands_name_the_best_trial_at_the_most_labels(tmp_path: Path) -> None:
    summaries = summarize(small_search())
    commands = next_commands("runs/my run", summaries)
    name = f"'runs/my run:{summaries[-1].ratio}'"
    assert len(commands) == 6 and all(name in command for command in commands)
    assert not next_commands("runs/x", [])
    folder = tmp_path / "a<b"
    folder.mkdir()
    page = write_page(folder, tmp_path / "report", small_search(), Config()).read_text()
    assert f"cid_ray.evaluate &#39;a&lt;b:{summaries[-1].ratio}&#39;" in page


@pytest.mark.parametrize("leave_by", ["dots", "absolute path", "link"])
def test_report_page_shows_no_file_outside_the_run(tmp_path: Path, leave_by: str) -> None:
    secret, folder = tmp_path / "secret.png", tmp_path / "run"
    secret.write_bytes(b"a secret")
    images = folder / "samples"
    images.mkdir(parents=True)
    for name in ("image.png", "label.png", "prediction.png"):
        (images / name).write_bytes(b"public")
    (images / "link.png").symlink_to(secret)
    prediction = {"dots": "../secret.png", "absolute path": str(secret), "link": "samples/link.png"}
    records = small_search()
    for record in records:
        if record["event"] == "final":
            sample = {"image_id": "x", "image": "samples/image.png", "label": "samples/label.png"}
            record["samples"] = [{**sample, "prediction": "samples/prediction.png"}]
    encoded = base64.b64encode(b"a secret").decode()
    public = write_page(folder, folder / "report", records, Config()).read_text()
    assert base64.b64encode(b"public").decode() in public
    for record in records:
        for sample in record.get("samples", []):
            sample["prediction"] = prediction[leave_by]
    page = write_page(folder, folder / "report", records, Config()).read_text()
    assert encoded not in page


@pytest.mark.process
def test_report_command_without_torch_and_ray_writes_page(tmp_path: Path) -> None:
    write_small_search(tmp_path)
    out = tmp_path / "elsewhere"
    code = (
        "import sys; sys.modules.update({'torch': None, 'ray': None})\n"
        f"from cid_ray.report import main; main([{str(tmp_path)!r}, '--out', {str(out)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CID" in done.stdout and (out / "index.html").stat().st_size > 10_000


def test_report_on_the_terminal_says_when_noise_was_not_measured(tmp_path: Path) -> None:
    write_small_search(tmp_path)
    lines: list[str] = []
    write_report(RunDir(tmp_path), Config(), read_records(tmp_path), lines.append)
    assert sum("Measure it here with --set search.repeats.n=3" in line for line in lines) == 1
