"""Contract: lines of a long benchmark go on where they stopped, but never mix two settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness.study_file import StudyFile


def test_lines_are_found_again_by_the_next_process(tmp_path: Path) -> None:
    first = StudyFile(tmp_path / "out", "demo")
    assert first.read() == []
    first.start({"data.ratio": "12", "data.crop_size": (96, 128)})
    first.append([{"arm": "supervised", "score": 1.5}, {"arm": "cid", "score": None}])
    again = StudyFile(tmp_path / "out", "demo")
    again.start({"data.ratio": "12", "data.crop_size": [96, 128]})
    again.append([{"arm": "cid", "score": 2.0}])
    assert [line["score"] for line in again.read()] == [1.5, None, 2.0]
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["config"]["data.ratio"] == "12"


@pytest.mark.parametrize(
    "settings", [{"loss.pseudo_weight": 0.06}, {}, {"loss.pseudo_weight": 1.0, "new": 1}]
)
def test_other_settings_are_refused_by_name(settings: dict[str, object], tmp_path: Path) -> None:
    file = StudyFile(tmp_path, "demo")
    file.start({"loss.pseudo_weight": 1.0})
    file.append([{"arm": "cid"}])
    before = file.facts.read_text()
    with pytest.raises(SystemExit, match="new" if "new" in settings else "loss.pseudo_weight"):
        file.start(settings)
    assert file.facts.read_text() == before


def test_settings_may_change_while_there_are_no_lines(tmp_path: Path) -> None:
    file = StudyFile(tmp_path, "demo")
    file.start({"train.steps": 1})
    file.start({"train.steps": 2})
    assert json.loads(file.facts.read_text())["config"] == {"train.steps": 2}
