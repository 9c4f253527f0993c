"""Laws of the record: a row is written whole, a torn or repeated line does no harm, a page needs rows alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from cid_ray.config import Config
from cid_ray.results import figures
from cid_ray.results.page import markdown, write_page
from cid_ray.results.record import Rows, provenance, read_rows
from cid_ray.results.summary import RatioSummary, summarize, table
from cid_ray.results.verdict import verdict

SCORES = {"supervised": 40.0, "pool_bn": 41.0, "mean_teacher": 42.5, "cid": 44.0}


def final(method: str, count: int, score: float | None = None, run: str | None = None) -> dict[str, Any]:
    value = (SCORES[method] if score is None else score) + count / 10
    names = {
        f"{p}{s}/{k}": value + (s == "val") + 2 * (p != "")
        for p in ("", "best/")
        for s in ("val", "test")
        for k in ("miou", "miou_teacher")
    }
    return {
        "event": "final", "run": run or f"1_{count}-{method}-000", "method": method, "ratio": f"1/{count}",
        "ratio_name": f"1/{count} ({count})", "label_count": count, "seconds": 3.0, "images_seen": 80, "step": 10,
        "steps": 10,
        "held_out": "test", "best/step": 5, "params": {"loss.relation_weight": 0.5} if method == "cid" else {},
        "test/iou_teacher": {"sky": value, "<road>": None}, "test/absent": ["<road>"], "warnings": [], **names,
    }  # fmt: skip


def rung(run: str, method: str, count: int, step: int, value: float) -> dict[str, Any]:
    return {
        "event": "rung", "run": run, "method": method, "ratio": f"1/{count}", "ratio_name": f"1/{count} ({count})",
        "label_count": count, "step": step, "steps": 10, "images_seen": 8 * step, "val/miou_teacher": value,
        "val/miou": value - 1,
    }  # fmt: skip


def a_search(folder: Path) -> None:
    rows = Rows(folder)
    for count in (16, 8):
        for number, (value, state) in enumerate([(40.0, "complete"), (30.0, "pruned"), (45.0, "complete")]):
            run = f"1_{count}-cid-00{number}"
            rows.add(rung(run, "cid", count, 5, value - 5))
            if state == "complete":
                rows.add(rung(run, "cid", count, 10, value))
            rows.add({"event": "trial", "run": run, "state": state, "reason": ""})
        for method in SCORES:
            rows.add(final(method, count, run=f"1_{count}-cid-002" if method == "cid" else None))
        rows.add(final("cid", count, 99.0, run=f"1_{count}-cid-000"))
        search = {
            "event": "search",
            "run": f"1/{count} cid",
            "ratio": f"1/{count}",
            "best": f"1_{count}-cid-002",
            "wanted": 3,
        }
        rows.add({**search, "states": {"COMPLETE": 2, "PRUNED": 1}, "importances": {"loss.relation_weight": 1.0}})


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    rows.add({"event": "rung", "run": "a", "images_seen": 1})
    with rows.path.open("a") as file:
        file.write('{"event": "rung", "run": "a", "ima')
    Rows(tmp_path).add({"event": "rung", "run": "a", "images_seen": 2})
    assert [r["images_seen"] for r in read_rows(tmp_path)] == [1, 2]


def test_a_repeated_measurement_counts_once_with_its_last_value(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for value in (1, 2):
        rows.add({"event": "rung", "run": "a", "images_seen": 8, "value": value})
    rows.add({"event": "rung", "run": "b", "images_seen": 8, "value": 3})
    assert [r["value"] for r in read_rows(tmp_path)] == [2, 3]


def test_no_row_holds_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Rows(tmp_path).add({"event": "rung", "run": "a", "loss": math.nan})


def test_provenance_names_versions_and_commit() -> None:
    found = provenance()
    assert {"torch", "optuna", "ray"} <= set(found["versions"])
    json.dumps(found)


def test_the_table_holds_baselines_and_the_trial_that_val_chose(tmp_path: Path) -> None:
    a_search(tmp_path)
    lines = table(summarize(read_rows(tmp_path)))
    assert [line["ratio"] for line in lines] == ["1/8 (8)"] * 4 + ["1/16 (16)"] * 4
    assert [line["baseline"] for line in lines] == [True, True, True, False] * 2
    cid = lines[3]
    assert cid["run"] == "1_8-cid-002"
    assert cid["test"] == pytest.approx(44.8)
    assert cid["over_supervised"] == pytest.approx(4.0)
    assert cid["best_on_val_test"] == pytest.approx(46.8)


def test_verdicts_follow_the_numbers(tmp_path: Path) -> None:
    a_search(tmp_path)
    better = summarize(read_rows(tmp_path))[0]
    assert "CID with 44.80" in verdict(better) and "+4.00 over supervised" in verdict(better)
    better.finals["supervised"] = final("supervised", 8, 60.0)
    assert "does not pay" in verdict(better)
    better.finals["supervised"] = final("supervised", 8)
    better.finals["mean_teacher"] = final("mean_teacher", 8, 50.0)
    assert "Best on test: mean teacher" in verdict(better) and "do not pay" in verdict(better)


@pytest.mark.parametrize("ended", [m for n in range(1, 5) for m in combinations(SCORES, n)], ids="+".join)
def test_there_are_words_whatever_has_ended(ended: tuple[str, ...]) -> None:
    """A search may be stopped at any moment."""
    said = verdict(stopped(ended))
    assert ("No CID trial" in said) == ("cid" not in ended and {"supervised"} < set(ended))
    assert ("Not enough" in said) == (not {"supervised"} < set(ended))


def stopped(ended: tuple[str, ...]) -> RatioSummary:
    best = "1_8-cid-000" if "cid" in ended else None
    search = {"event": "search", "ratio": "1/8", "method": "cid", "best": best}
    return summarize([rung("1_8-cid-007", "cid", 8, 5, 30.0), *(final(method, 8) for method in ended), search])[0]


def test_figures_draw_what_the_rows_say(tmp_path: Path) -> None:
    a_search(tmp_path)
    summaries = summarize(read_rows(tmp_path))
    assert figures.label_curve_data(summaries)["supervised"] == [(8, pytest.approx(40.8)), (16, pytest.approx(41.6))]
    history = figures.history_data(summaries[0])
    assert [(t["trial"], t["how"], t["best"]) for t in history] == [
        (0, "complete", 40.0),
        (1, "pruned", 40.0),
        (2, "complete", 45.0),
    ]
    assert history[1]["share"] == 0.5
    assert figures.curves_data(summaries[0])["1_8-cid-002"]["points"] == [(40, 40.0), (80, 45.0)]


def test_the_page_is_one_file_that_escapes_what_data_names(tmp_path: Path) -> None:
    a_search(tmp_path)
    page = write_page(tmp_path, tmp_path / "report", read_rows(tmp_path), Config()).read_text()
    assert "&lt;road&gt;" in page and "<road>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert 'src="http' not in page and "<script" not in page
    assert page.count("<svg") == 4
    for line in table(summarize(read_rows(tmp_path))):
        assert f"{line['test']:.2f}" in page
    assert "44.80" in markdown(summarize(read_rows(tmp_path)))


def test_a_page_is_rebuilt_without_torch_and_ray(tmp_path: Path) -> None:
    a_search(tmp_path)
    code = (
        "import sys; sys.modules.update({'torch': None, 'ray': None, 'optuna': None})\n"
        f"from cid_ray.report import main; main([{str(tmp_path)!r}, '--out', {str(tmp_path / 'elsewhere')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CID" in done.stdout and (tmp_path / "elsewhere" / "index.html").stat().st_size > 10_000
