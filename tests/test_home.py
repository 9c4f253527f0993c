"""Laws of a run's folder: in an object store it holds what a folder would, from the first event on; no secret in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray import places, report, tune
from cid_ray.config import InputError
from cid_ray.home import OF_A_JOB, Home, new_home
from cid_ray.results.record import of_event, read_rows
from tests.object_store import BUCKET, serving
from tests.test_tune import space_file


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


def test_what_changed_is_sent_and_another_machine_finds_it(store: dict[str, str]) -> None:
    name = f"{BUCKET}/homes/one"
    with Home(name) as mine:
        (mine.here / "report").mkdir(parents=True)
        (mine.here / "rows.jsonl").write_text("1\n")
        (mine.here / "report" / "index.html").write_text("page")
        (mine.here / ".hold").touch()
        mine.send()
        (mine.here / "rows.jsonl").write_text("1\n2\n")
        mine.send()
    assert not mine.here.exists() and places.paths(name) == ["report/index.html", "rows.jsonl"]
    with Home(name) as theirs:
        theirs.fetch()
        assert (theirs.here / "rows.jsonl").read_text() == "1\n2\n" and not (theirs.here / "report").exists()
        (theirs.here / "rows.jsonl").write_text("mine, newer")
        theirs.fetch("report")
        assert (theirs.here / "rows.jsonl").read_text() == "mine, newer"
        assert (theirs.here / "report" / "index.html").read_text() == "page"


def test_a_submitted_job_does_not_leave_its_run_in_a_folder_that_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / OF_A_JOB).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path / OF_A_JOB)
    assert new_home(None, "demo").here.parent == tmp_path / "me" / "cid_ray" / "runs"
    assert new_home(str(tmp_path / "x"), "demo").here == tmp_path / "x"
    with pytest.raises(InputError, match=r"--out runs/x lies in the job's working folder"):
        new_home("runs/x", "demo")


@pytest.mark.parametrize("name", ["s3://key:word@bucket/a", "ftp://host/a"])
def test_a_folder_that_would_show_credentials_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"credentials and endpoint are taken from the environment"):
        Home(name)


@pytest.mark.parametrize("name", ["s3://nobody/runs", "s3://Bad Bucket/x"])
def test_a_store_that_cannot_be_read_or_written_is_told_in_one_line(store: dict[str, str], name: str) -> None:
    with pytest.raises(InputError, match=r"s3://.* AWS_ENDPOINT_URL"):
        tune.main(["--out", name])
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL|is not a run's folder"):
        tune.main(["--resume", name])
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL|is not a run's folder"):
        report.main([name])


def test_a_write_that_a_store_refuses_bears_a_number(store: dict[str, str]) -> None:
    with pytest.raises(OSError, match="nobody") as told, places.writing("s3://nobody/runs/x") as file:
        file.write(b"x")
    assert told.value.errno


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_in_a_store_is_killed_and_goes_on_elsewhere(
    store: dict[str, str], small_demo: Path, tmp_path: Path
) -> None:
    name = f"{BUCKET}/runs/search"
    space = space_file(tmp_path, small_demo, ratios=["1/8"], trials=2, baselines=["supervised"])
    command = [sys.executable, "-m", "cid_ray.tune", "--config", str(space)]
    env = {**os.environ, "RAY_ADDRESS": "local"}  # a Ray of its own, whose workers know the store
    process = subprocess.Popen([*command, "--out", name], env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not places.exists(f"{name}/checkpoints/1_8-cid-000/last.pt"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command[:3], "--resume", name], env=env, check=True, stdout=subprocess.DEVNULL)
    with Home(name) as home:
        for folder in ("", "report", "samples"):
            home.fetch(folder)
        rows = read_rows(home.here)
        assert {row["run"]: row["state"] for row in of_event(rows, "trial")}.keys() == {
            "1_8-supervised-000", "1_8-cid-000", "1_8-cid-001",
        }  # fmt: skip
        assert {row["method"] for row in of_event(rows, "final") if "test/miou" in row} == {"supervised", "cid"}
        assert "data:image/png" in (home.here / "report" / "index.html").read_text()
        assert list((home.here / "samples").glob("1_8-cid-*/*.png"))
        for file in home.here.rglob("*.*"):
            assert not file.is_file() or store["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()
    assert places.exists(f"{name}/checkpoints/1_8-supervised-000/last.pt")
    with pytest.raises(InputError, match=rf"--out {name} already holds a run"):
        tune.main(["--config", str(space), "--out", name])
    assert report.main([name, "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000
