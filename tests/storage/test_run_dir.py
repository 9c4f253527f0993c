"""Laws of a run folder: in an object store it holds what a local folder would hold, and no secret.

The reference is a real S3 server (tests/helpers/object_store.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from cid_ray.config import InputError, build_config, load_config
from cid_ray.report import main as report_main
from cid_ray.results.records import of_event, read_records
from cid_ray.storage import paths
from cid_ray.storage.run_config import write_config
from cid_ray.storage.run_dir import RAY_JOB_WORKING_DIR, RunDir, new_run_dir
from cid_ray.tune import main as tune_main
from tests.helpers.dashboard_client import KEPT_RUN
from tests.helpers.object_store import BUCKET, serving
from tests.helpers.small_search import space_file


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


@pytest.mark.process
def test_push_changed_files_are_pulled_elsewhere(store: dict[str, str]) -> None:
    uri = f"{BUCKET}/run_dirs/one"
    with RunDir(uri) as mine:
        (mine.local / "report").mkdir(parents=True)
        (mine.local / "records.jsonl").write_text("1\n")
        (mine.local / "report" / "index.html").write_text("page")
        (mine.local / ".lock").touch()
        mine.push()
        (mine.local / "records.jsonl").write_text("1\n2\n")
        mine.push()
    assert not mine.local.exists()
    assert sorted(paths.list_files(uri)) == ["records.jsonl", "report/index.html"]
    with RunDir(uri) as other:
        other.pull()
        assert (other.local / "records.jsonl").read_text() == "1\n2\n"
        assert not (other.local / "report").exists()
        (other.local / "records.jsonl").write_text("newer, from here")
        other.pull("report")
        assert (other.local / "records.jsonl").read_text() == "newer, from here"
        assert (other.local / "report" / "index.html").read_text() == "page"


@pytest.mark.process
def test_pull_reads_an_object_again_that_was_replaced_meanwhile(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store breaks off a read whose object is replaced, as seen with two machines."""
    uri = f"{BUCKET}/runs/replaced"
    with RunDir(uri) as writer, RunDir(uri) as reader:
        writer.local.mkdir(parents=True)
        (writer.local / "records.jsonl").write_text("{}\n")
        writer.push()
        broken_reads = iter([True, True])
        open_read = paths.open_read

        def open_or_break(name: paths.PathOrUri) -> IO[bytes]:
            if next(broken_reads, False):
                raise OSError("Failed to flush response stream")
            return open_read(name)

        monkeypatch.setattr(paths, "open_read", open_or_break)
        reader.pull()
        assert (reader.local / "records.jsonl").read_text() == "{}\n"


def test_new_run_that_another_process_started_meanwhile_is_refused(tmp_path: Path) -> None:
    """Both found no run in the folder when they started."""
    first, second = (new_run_dir(str(tmp_path / "run"), "demo") for _ in range(2))
    first.check_new()
    second.check_new()
    with first:
        write_config(build_config({}), first)
        with pytest.raises(InputError, match="in use by another process"):
            write_config(build_config({}, {"train.steps": 7}), second)
    with pytest.raises(InputError, match="already holds a run; continue it with --resume"):
        write_config(build_config({}, {"train.steps": 7}), second)
    assert load_config(tmp_path / "run" / "config.yaml").train.steps != 7


def test_new_run_dir_of_submitted_job_is_outside_its_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / RAY_JOB_WORKING_DIR).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path / RAY_JOB_WORKING_DIR)
    assert new_run_dir(None, "demo").local.parent == tmp_path / "me" / "cid_ray" / "runs"
    assert new_run_dir(str(tmp_path / "x"), "demo").local == tmp_path / "x"
    with pytest.raises(InputError, match=r"--out runs/x is in the job's working folder"):
        new_run_dir("runs/x", "demo")


@pytest.mark.parametrize("name", ["s3://key:word@bucket/a", "ftp://host/a"])
def test_run_dir_with_credentials_is_refused(name: str) -> None:
    with pytest.raises(
        InputError, match=r"credentials and endpoint are taken from the environment"
    ):
        RunDir(name)


@pytest.mark.process
@pytest.mark.parametrize("name", ["s3://nobody/runs", "s3://Bad Bucket/x"])
def test_commands_with_unusable_store_raise_one_line(store: dict[str, str], name: str) -> None:
    with pytest.raises(InputError, match=r"s3://.* AWS_ENDPOINT_URL"):
        tune_main(["--out", name])
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL|is not a run folder"):
        tune_main(["--resume", name])
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL|is not a run folder"):
        report_main([name])


@pytest.mark.process
def test_atomic_write_refused_by_store_has_errno(store: dict[str, str]) -> None:
    with (
        pytest.raises(OSError, match="nobody") as caught,
        paths.atomic_write("s3://nobody/runs/x") as file,
    ):
        file.write(b"x")
    assert caught.value.errno


@pytest.mark.ray
@pytest.mark.slow
def test_search_in_store_killed_resumes_on_another_machine(
    store: dict[str, str], small_demo: Path, tmp_path: Path
) -> None:
    uri = f"{BUCKET}/runs/search"
    space = space_file(tmp_path, small_demo, ratios=["1/8"], trials=2, baselines=["supervised"])
    tune = [sys.executable, "-m", "cid_ray.tune"]
    # A Ray of its own: its workers must know the store's address.
    env = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(
        [*tune, "--config", str(space), "--out", uri],
        env=env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not paths.exists(f"{uri}/checkpoints/1_8-cid-000/last.pt"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*tune, "--resume", uri], env=env, check=True, stdout=subprocess.DEVNULL)
    with RunDir(uri) as run_dir:
        for folder in ("", "report", "samples"):
            run_dir.pull(folder)
        check_finished_search(run_dir.local, store["AWS_SECRET_ACCESS_KEY"])
    assert paths.exists(f"{uri}/checkpoints/1_8-supervised-000/last.pt")
    with pytest.raises(InputError, match=rf"--out {uri} already holds a run"):
        tune_main(["--config", str(space), "--out", uri])
    assert report_main([uri, "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000


@pytest.mark.process
def test_report_compares_a_run_in_a_store_with_a_local_one(
    store: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{BUCKET}/run_dirs/kept"
    with RunDir(uri) as run_dir:
        run_dir.local.mkdir(parents=True)
        for name in ("config.yaml", "records.jsonl"):
            (run_dir.local / name).write_bytes((KEPT_RUN / name).read_bytes())
        run_dir.push()
    assert report_main([uri, str(KEPT_RUN), "--out", str(tmp_path / "page")]) == 0
    text = capsys.readouterr().out
    assert "The same configuration." in text and uri in text
    assert uri in (tmp_path / "page" / "comparison.md").read_text()


def check_finished_search(folder: Path, secret: str) -> None:
    """All trials are recorded, report and sample images exist, and no file holds the secret."""
    records = read_records(folder)
    assert {record["run"] for record in of_event(records, "trial")} == {
        "1_8-supervised-000",
        "1_8-cid-000",
        "1_8-cid-001",
    }
    tested = {r["method"] for r in of_event(records, "final") if "test/miou" in r}
    assert tested == {"supervised", "cid"}
    assert "data:image/png" in (folder / "report" / "index.html").read_text()
    assert list((folder / "samples").glob("1_8-cid-*/*.png"))
    for file in folder.rglob("*.*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()
