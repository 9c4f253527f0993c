"""Laws of the dashboard of runs in an object store: it follows the store and never writes to it.

The reference is a real S3 server (tests/helpers/object_store.py), into which the tests copy a run
folder file by file, as a search does.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cid_ray.callbacks import status_file
from cid_ray.callbacks.status_file import StatusFile
from cid_ray.results.records import read_records
from cid_ray.results.snapshot import snapshot
from cid_ray.results.status import read_status
from cid_ray.storage import paths
from cid_ray.storage.remote_view import ReadOnlyRunDir
from cid_ray.storage.run_dir import RunDir
from tests.helpers.dashboard_client import (
    KEPT_RUN,
    ask,
    dashboard_of,
    event_stream,
    next_event,
    sample_images,
)
from tests.helpers.local_search import tiny_search
from tests.helpers.object_store import BUCKET, serving
from tests.helpers.ports import free_port, reachable, wait_until
from tests.helpers.records import common_fields
from tests.helpers.services import as_root, require_service, succeeds

pytestmark = pytest.mark.process
IMAGES_OF_HALFWAY = 2 * 2 * 4  # ratios, sample images, renderings of each


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


@pytest.fixture
def temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the commands that a test starts."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def put(run: Path, uri: str, *patterns: str) -> None:
    """Copy files of a run folder into the store."""
    for pattern in patterns:
        for path in sorted(run.glob(pattern)):
            with paths.atomic_write(f"{uri}/{path.relative_to(run).as_posix()}") as file:
                file.write(path.read_bytes())


def put_records(run: Path, uri: str, count: int | None = None) -> None:
    """Copy the first records of a run into the store; all of them without `count`."""
    lines = (run / "records.jsonl").read_bytes().splitlines(keepends=True)
    with paths.atomic_write(f"{uri}/records.jsonl") as file:
        file.write(b"".join(lines[:count]))


def test_dashboard_new_records_and_images_in_store_are_shown(
    store: dict[str, str], halfway: Path, temp_folder: Path
) -> None:
    uri = f"{BUCKET}/runs/growing"
    put(halfway, uri, "config.yaml", "status.json")
    put_records(halfway, uri, 1)
    with dashboard_of(uri, KEPT_RUN) as port, event_stream(port) as events:
        assert 'href="/run/camvid-cpu"' in ask(port, "/")[1]
        page = ask(port, "/run/growing")[1]
        assert "0 of 8 trials finished" in page and not sample_images(page)
        put(halfway, uri, "samples/*/*.png")
        put_records(halfway, uri)
        assert next_event(events) == "growing"
        page = ask(port, "/run/growing")[1]
        assert "3 of 8 trials finished" in page
        images = sample_images(page)
        assert len(images) == IMAGES_OF_HALFWAY
        for path in images:
            status, _, headers = ask(port, path)
            assert status == 200 and headers["Content-Type"] == "image/png"
        stamps = paths.file_stats(uri)
        assert [path.name.partition("-")[0] for path in temp_folder.iterdir()] == ["cid_ray"]
    assert not list(temp_folder.iterdir()) and paths.file_stats(uri) == stamps


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuses", "is gone"])
def test_dashboard_lost_store_keeps_last_state(
    fault: str, halfway: Path, temp_folder: Path
) -> None:
    """The store refuses the credentials, or does not answer: S3's client then tries for 6 s."""
    uri = f"{BUCKET}/runs/lost"
    store_port = free_port()
    lines: list[str] = []

    def page() -> str:
        return ask(port, "/")[1]

    with ExitStack() as server, ExitStack() as dashboard:
        env = server.enter_context(serving(store_port))
        put(halfway, uri, "config.yaml", "status.json", "samples/*/*.png")
        put_records(halfway, uri, 2)
        port = dashboard.enter_context(dashboard_of(uri, end=signal.SIGINT, lines=lines))
        before = sample_images(page())
        if fault == "is gone":
            server.close()
        else:
            require_known_credentials(store_port, True)
        check_refused_start(uri, env)
        wait_until(lambda: "its store cannot be read" in page())
        assert before and sample_images(page()) == before and ask(port, before[0])[0] == 200
        if fault == "is gone":
            server.enter_context(serving(store_port))
        else:
            require_known_credentials(store_port, False)
        put(halfway, uri, "config.yaml", "samples/*/*.png")
        put_records(halfway, uri)
        wait_until(
            lambda: (
                "its store" not in (now := page()) and len(sample_images(now)) == IMAGES_OF_HALFWAY
            )
        )
        dashboard.close()
    about_store = [line for line in lines if uri in line]
    assert len(about_store) == 2
    assert about_store[0].startswith(f"warning: {uri} cannot be read (")
    assert "can be read again" in about_store[1]
    assert not list(temp_folder.iterdir())


def check_refused_start(uri: str, env: dict[str, str]) -> None:
    """A dashboard that is started while the store is lost ends with one line."""
    done = subprocess.run(
        [sys.executable, "-m", "cid_ray.dashboard", uri],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"error: {uri} cannot be read (" in done.stderr


def require_known_credentials(server: int, required: bool) -> None:
    """Whether moto's server asks for credentials of a user whom it knows, or accepts any."""
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
    # The number of requests that are accepted without a check.
    connection.request("POST", "/moto-api/reset-auth", "0" if required else "inf")
    assert connection.getresponse().status == 200


def test_dashboard_run_absent_in_store_is_refused(store: dict[str, str], temp_folder: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.dashboard", f"{BUCKET}/runs/none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "runs/none is not a run folder" in done.stderr
    assert not list(temp_folder.iterdir())


def test_read_only_run_dir_pulls_changes_only_and_pushes_nothing(
    store: dict[str, str], halfway: Path
) -> None:
    uri = f"{BUCKET}/runs/still"
    put(halfway, uri, "config.yaml", "samples/*/*.png")
    put_records(halfway, uri, 2)
    stamps = paths.file_stats(uri)
    with ReadOnlyRunDir(uri) as view:
        view.pull("", "samples")
        inodes = {path: path.stat().st_ino for path in view.local.rglob("*.*")}
        assert len(inodes) == len(stamps)
        (view.local / "config.yaml").write_text("written here")
        put_records(halfway, uri, 3)
        view.pull("", "samples")
        changed = [path.name for path, inode in inodes.items() if path.stat().st_ino != inode]
        assert changed == ["records.jsonl"]
        assert (view.local / "config.yaml").read_text() == "written here"
        view.push()
    stamps_after = paths.file_stats(uri)
    assert {path for path in stamps_after if stamps_after[path] != stamps[path]} == {
        "records.jsonl"
    }
    assert not view.local.exists()


# ---- whether a search runs ----


def test_status_file_between_events_is_pushed_at_intervals(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{BUCKET}/runs/status"
    progress = {"event": "progress", "run": "1_8-cid-000"}
    with RunDir(uri) as elsewhere:
        with RunDir(uri) as run_dir:
            run_dir.local.mkdir()
            search: Any = SimpleNamespace(
                run_dir=run_dir, total=3, finished_before=0, rules=SimpleNamespace(reason="")
            )
            status = StatusFile()
            status.on_search_start(search)
            trial = {"steps": 4, "params": {}, "resumed": False, "timestamp": 0.0}
            status.running["1_8-cid-000"] = common_fields("cid", 8) | trial
            del status.running["1_8-cid-000"]["run"]
            first = pulled_status(elsewhere)
            monkeypatch.setattr(status_file, "WRITE_INTERVAL_S", 0.0)
            status.on_trial_result(progress)
            assert pulled_status(elsewhere) == first
            assert read_status(run_dir.local)["timestamp"] > first["timestamp"]
            monkeypatch.setattr(status_file, "PUSH_INTERVAL_S", 0.0)
            status.on_trial_result({**progress, "step": 2})
            second = pulled_status(elsewhere)
            assert second["timestamp"] > first["timestamp"] and second["state"] == "running"
            status.on_search_end()
        assert pulled_status(elsewhere)["state"] == "closed"


def pulled_status(run_dir: RunDir) -> dict[str, Any]:
    run_dir.pull()
    return read_status(run_dir.local)


def test_search_in_another_pid_namespace_is_never_called_killed(
    halfway: Path, small_demo: Path, tmp_path: Path
) -> None:
    """Two containers may share a host name but not their process ids."""
    unshare = as_root("unshare", "--pid", "--fork")
    require_service("pid namespace", succeeds(*unshare, "true"))
    code = "from cid_ray.results.status import process_namespace; print(process_namespace())"
    python = [sys.executable, "-c", code]
    here = subprocess.run(python, capture_output=True, text=True, check=True).stdout.strip()
    elsewhere = subprocess.run(
        [*unshare, *python], capture_output=True, text=True, check=True
    ).stdout.strip()
    finished = subprocess.Popen(["true"])
    finished.wait()
    kept = json.loads((halfway / "status.json").read_text())
    states = {}
    for namespace in (here, elsewhere):
        changed = {**kept, "pid": finished.pid, "host": namespace}
        (tmp_path / "status.json").write_text(json.dumps(changed))
        status = read_status(tmp_path)
        states[namespace] = [
            snapshot(
                read_records(halfway), tiny_search(small_demo), status, kept["timestamp"] + age_s
            ).state
            for age_s in (1, 1000)
        ]
    assert states == {here: ["killed", "killed"], elsewhere: ["running", "no_heartbeat"]}


# ---- with a search ----


@pytest.mark.ray
@pytest.mark.slow
def test_search_in_store_with_dashboard_shows_images_while_running(
    store: dict[str, str], temp_folder: Path
) -> None:
    """`tune --dashboard --out s3://` on the demo set: predictions appear before the search ends."""
    uri = f"{BUCKET}/runs/shown"
    port = free_port()
    command = ["cid_ray.tune", "--out", uri, "--dashboard", str(port), "--trials", "3"]
    command += ["--set", "search.ratios=[1/8]", "--set", "search.baselines=[supervised]"]
    # A Ray of its own in /tmp: the paths of Ray's sockets must be short.
    env = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": "/tmp"}
    search = subprocess.Popen(
        [sys.executable, "-m", *command], env=env, stdout=subprocess.PIPE, text=True
    )

    def over() -> bool:
        return search.poll() is not None

    try:
        wait_until(lambda: over() or reachable(port))
        wait_until(lambda: over() or bool(sample_images(ask(port, "/")[1])))
        page = ask(port, "/")[1]
        assert not over() and "running: " in page and "optuna-dashboard</a>" in page
        assert all(ask(port, path)[0] == 200 for path in sample_images(page))
        assert list(temp_folder.glob("cid_ray-*/shown"))
        optuna_port = int(page.partition('href="http://127.0.0.1:')[2].partition("/")[0])
        wait_until(lambda: reachable(optuna_port))
        summaries = json.loads(ask(optuna_port, "/api/studies")[1])["study_summaries"]
        assert {"1/8 cid", "1/8 supervised"} <= {study["study_name"] for study in summaries}
    finally:
        search.send_signal(signal.SIGINT)
        output, _ = search.communicate(timeout=200)
    assert "interrupted" in output and f"dashboard http://127.0.0.1:{port}/" in output
    wait_until(lambda: not reachable(port))
    wait_until(lambda: not list(temp_folder.glob("cid_ray-*/shown")))
