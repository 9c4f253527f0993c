"""The dashboard of runs in an object store: it follows the store, outlives its loss, leaves nothing here or there."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from cid_ray import places
from cid_ray.home import Home
from cid_ray.mirror import Mirror
from cid_ray.results import pulse
from cid_ray.results.live import look
from cid_ray.results.record import read_rows
from tests.object_store import BUCKET, free_port, serving
from tests.searching import tiny_search
from tests.test_dashboard import KEPT, ask, dashboard_of, news_of, next_news, reachable


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of commands that are started."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def put(run: Path, name: str, *patterns: str) -> None:
    """Files of a run's folder into the store, as a search's trials and its driver do."""
    for path in (path for pattern in patterns for path in sorted(run.glob(pattern))):
        with places.writing(f"{name}/{path.relative_to(run).as_posix()}") as file:
            file.write(path.read_bytes())


def put_rows(run: Path, name: str, count: int | None = None) -> None:
    with places.writing(f"{name}/rows.jsonl") as file:
        file.write(b"".join((run / "rows.jsonl").read_bytes().splitlines(keepends=True)[:count]))


def pictures(page: str) -> list[str]:
    return [line.split('"')[0] for line in page.split('<img src="')[1:]]


def test_rows_and_pictures_that_arrive_in_a_store_are_told_and_shown(
    store: dict[str, str], halfway: Path, temporary: Path
) -> None:
    name = f"{BUCKET}/runs/growing"
    put(halfway, name, "config.yaml", "pulse.json")
    put_rows(halfway, name, 1)
    with dashboard_of(name, KEPT) as port, news_of(port) as news:
        assert 'href="/run/camvid-cpu"' in ask(port, "/")[1]
        page = ask(port, "/run/growing")[1]
        assert "0 of 8 trials ended" in page and not pictures(page)
        put(halfway, name, "samples/*/*.png")
        put_rows(halfway, name)
        assert next_news(news) == "growing"
        page = ask(port, "/run/growing")[1]
        assert len(pictures(page)) == 2 * 2 * 4  # ratios, images, pictures of each
        assert "3 of 8 trials ended" in page
        for path in pictures(page):
            status, _, headers = ask(port, path)
            assert status == 200 and headers["Content-Type"] == "image/png"
        stamps = places.stamps(name)
        assert [path.name.partition("-")[0] for path in temporary.iterdir()] == ["cid_ray"]
    assert not list(temporary.iterdir()) and places.stamps(name) == stamps


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refuses", "is gone"])
def test_a_store_that_is_lost_leaves_the_last_state(how: str, halfway: Path, temporary: Path) -> None:
    """One that no longer takes the credentials; one that is not reached, which S3's client tries for six seconds."""
    name, lines, at = f"{BUCKET}/runs/lost", list[str](), free_port()
    with ExitStack() as server, ExitStack() as opened:
        env = server.enter_context(serving(at))
        put(halfway, name, "config.yaml", "pulse.json", "samples/*/*.png")
        put_rows(halfway, name, 2)
        port = opened.enter_context(dashboard_of(name, end=signal.SIGINT, lines=lines))
        before = pictures(ask(port, "/")[1])
        server.close() if how == "is gone" else take_credentials(at, False)
        command = [sys.executable, "-m", "cid_ray.dashboard", name]
        late = subprocess.run(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True, timeout=60)
        assert late.returncode == 2 and late.stderr.count("\n") == 1
        assert f"error: {name} cannot be read (" in late.stderr
        until(lambda: "its store cannot be read" in ask(port, "/")[1])
        assert before and pictures(ask(port, "/")[1]) == before and ask(port, before[0])[0] == 200
        server.enter_context(serving(at)) if how == "is gone" else take_credentials(at, True)
        put(halfway, name, "config.yaml", "samples/*/*.png")
        put_rows(halfway, name)
        until(lambda: "its store" not in (page := ask(port, "/")[1]) and len(pictures(page)) == 2 * 2 * 4)
        opened.close()
    told = [line for line in lines if name in line]
    assert len(told) == 2 and told[0].startswith(f"warning: {name} cannot be read (") and "can be read again" in told[1]
    assert not list(temporary.iterdir())


def take_credentials(server: int, those_of_anybody: bool) -> None:
    """What moto's server asks of a request: nothing, or the credentials of somebody whom it knows."""
    connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
    connection.request("POST", "/moto-api/reset-auth", "inf" if those_of_anybody else "0")
    assert connection.getresponse().status == 200


def test_a_run_that_is_not_there_is_refused_in_one_line(store: dict[str, str], temporary: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.dashboard", f"{BUCKET}/runs/none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "runs/none is not a run's folder" in done.stderr
    assert not list(temporary.iterdir())


def test_only_what_has_changed_is_fetched_and_nothing_is_sent(store: dict[str, str], halfway: Path) -> None:
    name = f"{BUCKET}/runs/still"
    put(halfway, name, "config.yaml", "samples/*/*.png")
    put_rows(halfway, name, 2)
    stamps = places.stamps(name)
    with Mirror(name) as mirror:
        mirror.fetch("", "samples")
        files = {path: path.stat().st_ino for path in mirror.here.rglob("*.*")}
        assert len(files) == len(stamps)
        (mirror.here / "config.yaml").write_text("written here")
        put_rows(halfway, name, 3)
        mirror.fetch("", "samples")
        changed = [path.name for path, number in files.items() if path.stat().st_ino != number]
        assert changed == ["rows.jsonl"] and (mirror.here / "config.yaml").read_text() == "written here"
    assert {path for path, stamp in places.stamps(name).items() if stamp != stamps[path]} == {"rows.jsonl"}
    assert not mirror.here.exists()


# ---- whether a search runs ----


def test_a_store_hears_of_a_search_between_its_events(store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{BUCKET}/runs/beating"
    with Home(name) as elsewhere:
        with Home(name) as home:
            home.here.mkdir()
            beating = pulse.Pulse(SimpleNamespace(home=home, total=3, ended_before=0, reason=""))
            beating.running["1_8-cid-000"] = {}
            told = heard(elsewhere)
            monkeypatch.setattr(pulse, "SECONDS", 0.0)
            beating.row({"event": "progress", "run": "1_8-cid-000"})
            assert heard(elsewhere) == told and pulse.read_pulse(home.here)["at"] > told["at"]
            monkeypatch.setattr(pulse, "SEND_SECONDS", 0.0)
            beating.row({"event": "progress", "run": "1_8-cid-000", "step": 2})
            assert heard(elsewhere)["at"] > told["at"] and heard(elsewhere)["state"] == "running"
            beating.close()
        assert heard(elsewhere)["state"] == "closed"


def heard(home: Home) -> dict[str, object]:
    home.fetch()
    return pulse.read_pulse(home.here)


def test_a_search_elsewhere_is_never_called_killed(halfway: Path, small_demo: Path, tmp_path: Path) -> None:
    """Another namespace of process numbers on a machine of the same name, as two containers may be."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("no unshare here that may make a namespace of process numbers")
    code = "from cid_ray.results import pulse; print(pulse._where())"
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    there = subprocess.run(
        [unshare, "--pid", "--fork", sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    ended = subprocess.Popen(["true"])
    ended.wait()
    states = {}
    for where in (own, there):
        told = {**json.loads((halfway / "pulse.json").read_text()), "pid": ended.pid, "host": where}
        (tmp_path / "pulse.json").write_text(json.dumps(told))
        read = pulse.read_pulse(tmp_path)
        states[where] = [
            look(read_rows(halfway), tiny_search(small_demo), read, told["at"] + late).state for late in (1, 1000)
        ]
    assert states == {own: ["killed", "killed"], there: ["running", "silent"]}


# ---- beside a search ----


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_in_a_store_shows_pictures_while_it_works(store: dict[str, str], temporary: Path) -> None:
    """`tune --dashboard --out s3://` on the demo set: predictions appear before the search ends."""
    name, port = f"{BUCKET}/runs/shown", free_port()
    command = ["cid_ray.tune", "--out", name, "--dashboard", str(port), "--trials", "3"]
    command += ["--set", "search.ratios=[1/8]", "--set", "search.baselines=[supervised]"]
    env = {**os.environ, "RAY_ADDRESS": "local", "RAY_TMPDIR": "/tmp"}  # a Ray of its own; its sockets' names are short
    search = subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: search.poll() is not None or reachable(port))
        until(lambda: search.poll() is not None or bool(pictures(ask(port, "/")[1])))
        page = ask(port, "/")[1]
        assert search.poll() is None and "running: " in page and "optuna-dashboard</a>" in page
        assert all(ask(port, path)[0] == 200 for path in pictures(page))
        assert list(temporary.glob("cid_ray-*/shown"))
        other = int(page.partition('href="http://127.0.0.1:')[2].partition("/")[0])
        until(lambda: reachable(other))
        studies = json.loads(ask(other, "/api/studies")[1])["study_summaries"]
        assert {"1/8 cid", "1/8 supervised"} <= {study["study_name"] for study in studies}
    finally:
        search.send_signal(signal.SIGINT)
        said, _ = search.communicate(timeout=200)
    assert "interrupted" in said and f"dashboard http://127.0.0.1:{port}/" in said
    until(lambda: not reachable(port))
    until(lambda: not list(temporary.glob("cid_ray-*/shown")))
