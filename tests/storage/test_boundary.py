"""Law: nothing that is outside a run folder is read, overwritten or removed through it.

Every entry of a run folder in turn is a link to a file or folder outside it, or a link to nothing;
every command that opens a run then refuses it, and what is outside stays as it was. Names of
objects come from a real S3 server (tests/helpers/object_store.py).
"""

from __future__ import annotations

import os
import urllib.request
import uuid
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cid_ray.cli.console import RunConsole
from cid_ray.config import InputError, build_config
from cid_ray.data.table_writer import TableWriter
from cid_ray.report import main as report_main
from cid_ray.storage import boundary, paths
from cid_ray.storage.lock import RunLock
from cid_ray.storage.remote_view import open_read_only
from cid_ray.storage.run_config import write_config
from cid_ray.storage.run_dir import RunDir
from tests.helpers.object_store import BUCKET, serving
from tests.helpers.records import write_small_search

FILES = (
    "config.yaml",
    "records.jsonl",
    "status.json",
    "log.txt",
    "study.journal",
    ".lock",
    "report/index.html",
    "report/report.md",
    "checkpoints/1_16-cid-000/last.pt",
    "samples/images/0_image.png",
)
FOLDERS = ("report", "checkpoints", "checkpoints/1_16-cid-000", "samples", "samples/images")
COMMANDS = {
    "report": lambda run: report_main([str(run)]),
    "new run": lambda run: write_config(build_config({}), RunDir(run)),
    "lock": lambda run: RunDir(run).lock(),
    "resume": lambda run: RunDir(run).pull(),
    "live page": lambda run: open_read_only([str(run)], print).__enter__(),
}
SETTINGS = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make_run(folder: Path) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "config.yaml").write_text(build_config({}).to_yaml())
    (folder / "records.jsonl").unlink()
    write_small_search(folder)
    return folder


def make_outside(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "1_16-cid-000").mkdir()
    for name in ("victim.txt", "index.html", "images/0_image.png", "1_16-cid-000/last.pt"):
        (folder / name).write_text("theirs")
    return folder


def content_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def replace_by_link(path: Path, target: Path) -> None:
    paths.remove(path)
    path.symlink_to(target)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_link_out_of_a_run_is_refused_by_every_command(
    name: str, command: str, tmp_path: Path
) -> None:
    outside = make_outside(tmp_path / "outside")
    before = content_of(outside)
    target = outside if name in FOLDERS else outside / "victim.txt"
    for number, link_to in enumerate((target, outside / "nothing" / "here")):
        run = make_run(tmp_path / f"run-{number}")
        replace_by_link(run / name, link_to)
        own = {key: text for key, text in content_of(run).items() if not key.startswith(name)}
        with pytest.raises(InputError, match=r"is a link to .*outside the folder") as caught:
            COMMANDS[command](run)
        assert name in str(caught.value) and str(link_to) in str(caught.value)
        assert content_of(outside) == before
        assert {k: v for k, v in content_of(run).items() if not k.startswith(name)} == own


def test_run_folder_may_be_a_link_and_hold_links_within(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "best.pt").symlink_to(run / "checkpoints" / "1_16-cid-000" / "last.pt")
    (run / "best").symlink_to("checkpoints")
    # Left by a kill, in a folder that was moved since.
    (run / "study.journal.lock").symlink_to("/old/place/study.journal")
    (run / "study.journal").unlink()  # it holds no study
    link = tmp_path / "by-link"
    link.symlink_to(run)
    assert report_main([str(link)]) == 0
    assert "<html" in (run / "report" / "index.html").read_text()


def test_pipe_in_a_run_is_refused_before_anything_waits_for_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "records.jsonl").unlink()
    os.mkfifo(run / "records.jsonl")
    with pytest.raises(InputError, match=r"records\.jsonl is neither a file nor a folder"):
        report_main([str(run)])


@pytest.mark.parametrize("name", ["meta.json", "table.parquet.partial", "index.parquet", ".lock"])
def test_table_is_not_written_through_a_link(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("theirs")
    out = tmp_path / "table"
    out.mkdir()
    (out / name).symlink_to(victim)
    with pytest.raises(InputError):
        TableWriter(out, ["a"], [[0, 0, 0]], 255)
    assert victim.read_text() == "theirs"


def test_files_that_are_appended_to_follow_no_link(tmp_path: Path) -> None:
    """Also a link that appears after the folder was checked."""
    for name, use in ((".lock", RunLock), ("log.txt", lambda run: RunConsole(run, 1))):
        (tmp_path / name).symlink_to(tmp_path / "victim.txt")
        with pytest.raises((InputError, OSError), match="symbolic links"):
            use(tmp_path)
        assert not (tmp_path / "victim.txt").exists()


def test_removal_follows_no_link(tmp_path: Path) -> None:
    outside = make_outside(tmp_path / "outside")
    before = content_of(outside)
    run = tmp_path / "run"
    (run / "deeper").mkdir(parents=True)
    for link in (run / "folder", run / "deeper" / "folder"):
        link.symlink_to(outside)
    for link in (run / "file", run / "deeper" / "file"):
        link.symlink_to(outside / "victim.txt")
    for name in ("folder", "file", "deeper"):
        paths.remove(run / name)
    assert list(run.iterdir()) == [] and content_of(outside) == before


@SETTINGS
@given(name=st.text(max_size=12) | st.from_regex(r"[./\\a]{1,8}", fullmatch=True))
def test_accepted_object_name_is_a_path_inside_the_folder(name: str, tmp_path: Path) -> None:
    try:
        boundary.check_object_names([name], "s3://bucket/run")
    except InputError:
        return
    path = Path(os.path.normpath(tmp_path / name))
    assert path != tmp_path and path.is_relative_to(tmp_path)
    assert path.relative_to(tmp_path) == Path(PurePosixPath(name)) and name.isprintable()


HOSTILE_KEYS = (
    "samples/../../planted-{id}",
    "samples/../../../planted-{id}",
    "samples//tmp/planted-{id}",
    "samples/..",
    "samples/a\\b",
    "samples/new\nline",
    "samples/" + "n" * 300,
)
NEVER_LISTED = ("../planted-{id}", "/planted-{id}", "./planted-{id}")


@pytest.mark.process
def test_object_names_that_leave_the_folder_are_refused_and_counted() -> None:
    with serving() as env:
        for number, pattern in enumerate((*HOSTILE_KEYS, *NEVER_LISTED)):
            key = pattern.format(id=uuid.uuid4().hex)
            post_object(env["AWS_ENDPOINT_URL"], f"run-{number}/config.yaml")
            post_object(env["AWS_ENDPOINT_URL"], f"run-{number}/{key}")
            with RunDir(f"{BUCKET}/run-{number}") as run_dir:
                if pattern in HOSTILE_KEYS:
                    with pytest.raises(InputError, match=r"1 object\(s\) whose names are no plain"):
                        run_dir.pull("", "samples")
                else:
                    run_dir.pull("", "samples")
                temp = run_dir.local.parent
                written = {path.name for path in temp.rglob("*") if path.is_file()}
                assert written <= {"config.yaml"} and not list(temp.parent.glob("planted-*"))


def post_object(endpoint: str, key: str) -> None:
    """Store an object by a form: in a URL every HTTP client would resolve the `..`."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
        for name, more, value in (("key", "", key), ("file", '; filename="x"', "content"))
    ]
    request = urllib.request.Request(
        f"{endpoint}/{BUCKET.removeprefix('s3://')}",
        "".join([*parts, f"--{mark}--\r\n"]).encode(),
        {"Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    urllib.request.urlopen(request, timeout=30).close()
