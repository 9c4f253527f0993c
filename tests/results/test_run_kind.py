"""Law: a command that is given a ladder's folder names the command that takes it, in one line, and
changes nothing. References: made-up ladders, the published one, a kept search.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from cid_ray import report, scale, tune
from cid_ray.config import InputError
from cid_ray.results.records import Record
from cid_ray.results.run_kind import ladder_in
from tests.helpers import records as made
from tests.helpers.dashboard_client import KEPT_RUN, ask, dashboard_of
from tests.helpers.image_tables import encode_image, random_image
from tests.helpers.ladders import final, label_ladder, write_ladder

PUBLISHED = KEPT_RUN.parent / "scaling" / "demo-labels"
COMMANDS = {
    "tune": "tune --resume RUN",
    "tune with --warm-start": "tune --warm-start RUN",
    "train": "train --resume RUN",
    "repair": "repair RUN",
    "dashboard": "dashboard RUN",
    "evaluate": "evaluate RUN",
    "evaluate at a ratio": "evaluate RUN:12",
    "predict": "predict RUN image.png --out OUT",
    "label_next": "label_next RUN:labels-12-cid-0 --count 2 --out OUT",
    "pool": "pool RUN:labels-12-cid-0",
    "export": "export RUN --format safetensors --out OUT",
    "scale plan": "scale plan --space demo --cluster aws --run RUN",
}


def run_command(line: str) -> int:
    name, *options = line.split()
    return int(importlib.import_module(f"cid_ray.{name}").main(options))


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_command_given_a_ladder_names_the_one_that_continues_it(tmp_path: Path, line: str) -> None:
    run = write_ladder(tmp_path / "run", label_ladder())
    before = {file: file.read_bytes() for file in run.rglob("*")}
    image = tmp_path / "image.png"
    image.write_bytes(encode_image(random_image(0, (32, 32))))
    for word, path in (("RUN", run), ("OUT", tmp_path / "out"), ("image.png", image)):
        line = line.replace(word, str(path))
    with pytest.raises(InputError) as refused:
        run_command(line)
    assert str(refused.value) == (
        f"{run} is the folder of a ladder 'labels': continue it with `python -m cid_ray.scale "
        f"labels --resume {run}`, show it with `python -m cid_ray.report {run}`"
    )
    assert {file: file.read_bytes() for file in run.rglob("*")} == before
    assert not (tmp_path / "out").exists()


def test_published_ladder_without_a_configuration_is_only_shown() -> None:
    with pytest.raises(InputError, match="'labels': show it with"):
        run_command(f"train --resume {PUBLISHED}")


def test_stopped_ladder_without_a_count_is_known_by_its_trainings(tmp_path: Path) -> None:
    rung = {**made.rung("cid", 12, 0, 2, 40.0), "run": "pool-0.25-cid-0"}
    run = write_ladder(tmp_path / "run", [rung])
    with pytest.raises(InputError, match="scale pool --resume"):
        tune.main(["--resume", str(run)])
    with pytest.raises(InputError, match="nothing was measured"):
        report.main([str(run)])


@pytest.mark.parametrize(
    "record",
    [
        made.rung("cid", 12, 0, 2, 40.0),  # "1_12-cid-000"
        {**final("cid", 12, 0, 50.0), "run": "train"},
        {**made.search("cid", 12, None), "run": "labels-search-2"},
    ],
    ids=["trial", "training", "search"],
)
def test_record_of_another_run_makes_no_ladder(tmp_path: Path, record: Record) -> None:
    assert ladder_in(write_ladder(tmp_path / "run", [record])) == ""


def test_ladder_is_not_continued_as_another_kind(tmp_path: Path) -> None:
    run = write_ladder(tmp_path / "run", label_ladder())
    with pytest.raises(InputError, match="scale labels --resume"):
        scale.main(["workers", "--resume", str(run)])


def test_search_and_training_are_not_continued_as_a_ladder(tmp_path: Path) -> None:
    run = write_ladder(tmp_path / "run", [{**final("cid", 12, 0, 50.0), "run": "train"}])
    with pytest.raises(InputError, match="train --resume"):
        scale.main(["labels", "--resume", str(run)])
    (run / "study.journal").touch()
    with pytest.raises(InputError, match="tune --resume"):
        scale.main(["labels", "--resume", str(run)])


@pytest.mark.process
def test_dashboard_of_several_runs_links_the_page_of_a_ladder(tmp_path: Path) -> None:
    shown, stopped = (write_ladder(tmp_path / name, label_ladder()) for name in ("shown", "other"))
    assert report.main([str(shown)]) == 0
    with dashboard_of(KEPT_RUN, shown, stopped) as port:
        page = ask(port, "/")[1]
        assert "49.44" in page and "Best so far" in page
        assert 'href="/run/shown"' in page and 'href="/run/other"' not in page
        assert page.count("scale labels") == 2
        status, text, _ = ask(port, "/run/shown")
        assert status == 200 and "192 labels are expected" in text
        assert ask(port, "/run/other")[0] == 404
