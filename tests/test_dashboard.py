"""Laws of the dashboard as a process: its pages follow a run folder, and it serves nothing else.

References are the kept CamVid run, cut off and continued, and a real search that was left half-way.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cid_ray import dashboard
from cid_ray.cli import sidecar
from cid_ray.config import InputError
from cid_ray.results.listening import allowed_hosts, listen
from cid_ray.results.status import read_status
from tests.helpers.dashboard_client import (
    KEPT_RUN,
    ask,
    dashboard_of,
    event_stream,
    first_records,
    next_event,
    sample_images,
)
from tests.helpers.local_search import tiny_search
from tests.helpers.ports import free_port, reachable, wait_until

pytestmark = pytest.mark.process
IMAGES_OF_HALFWAY = 2 * 2 * 4  # ratios, sample images, renderings of each
PARENT = """
import sys, time
from pathlib import Path
from cid_ray.cli import sidecar

with sidecar.live_dashboard(int(sys.argv[1]), Path(sys.argv[2]), print):
    time.sleep(600)
"""


# ---- pages ----


def test_dashboard_new_records_send_event_and_are_shown(tmp_path: Path) -> None:
    run = first_records(KEPT_RUN, tmp_path / "growing", 14)
    lines = (KEPT_RUN / "records.jsonl").read_text().splitlines(keepends=True)
    with dashboard_of(run) as port, event_stream(port) as events:
        status, page, _ = ask(port, "/")
        assert status == 200 and "mean teacher" not in page and page.count("<svg") == 2
        with (run / "records.jsonl").open("a") as file:
            file.write("".join(lines[14:34]))
        assert next_event(events) == "growing"
        page = ask(port, "/")[1]
        assert "mean teacher" in page and page.count("<svg") == 4


def test_dashboard_of_several_runs_compares_them(tmp_path: Path, halfway: Path) -> None:
    same_name = first_records(KEPT_RUN, tmp_path / "camvid-cpu", 20)
    with dashboard_of(KEPT_RUN, same_name, halfway) as port:
        page = ask(port, "/")[1]
        for slug in ("camvid-cpu", "camvid-cpu-2", halfway.name):
            assert f'href="/run/{slug}"' in page
            assert ask(port, f"/run/{slug}")[0] == 200
        assert "49.44" in page
        assert ask(port, "/run/none")[0] == 404
        assert "38.25" in ask(port, "/run/camvid-cpu/report")[1]
        assert ask(port, "/run/camvid-cpu-2/report")[0] == 404


def test_dashboard_serves_images_that_records_name_and_no_other_file(halfway: Path) -> None:
    with dashboard_of(halfway) as port:
        images = sample_images(ask(port, "/")[1])
        assert len(images) == IMAGES_OF_HALFWAY
        for path in images:
            status, _, headers = ask(port, path)
            assert status == 200
            assert headers["Content-Type"] == "image/png"
            assert headers["Cache-Control"] == "no-store"
        other_files = (
            "study.journal",
            "records.jsonl",
            "../config.yaml",
            "%2e%2e/%2e%2e/etc/passwd",
            "/etc/passwd",
            "samples/../records.jsonl",
            "checkpoints/1_8-supervised-000/last.pt",
        )
        for path in other_files:
            assert ask(port, f"/run/{halfway.name}/image/{path}")[0] in (400, 404), path


def test_dashboard_serves_nothing_through_a_link_that_appears_later(
    halfway: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(halfway, run)
    (tmp_path / "secret.png").write_text("secret")
    (run / "report").mkdir(exist_ok=True)
    report = run / "report" / "index.html"
    report.write_text("the report")
    with dashboard_of(run) as port:
        images = sample_images(ask(port, "/")[1])
        status, text, headers = ask(port, "/run/run/report")
        assert status == 200 and text == "the report"
        assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        image = run / images[0].partition("/image/")[2]
        for file, path in ((report, "/run/run/report"), (image, images[0])):
            file.unlink()
            file.symlink_to(tmp_path / "secret.png")
            status, text, _ = ask(port, path)
            assert status == 404 and "secret" not in text


def test_dashboard_answers_to_loopback_names_and_reading_only(halfway: Path) -> None:
    with dashboard_of(halfway) as port:
        for host in (None, "localhost", f"127.0.0.1:{port}", "LOCALHOST:9999", "[::1]:80"):
            assert ask(port, "/", host=host)[0] == 200
        foreign_hosts = (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
        )
        for host in foreign_hosts:
            for path in ("/", "/events", "/style.css", f"/run/{halfway.name}"):
                assert ask(port, path, host=host)[0] == 403
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(port, "/", method)[0] == 405
        _, page, headers = ask(port, "/")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "*" not in policy
        assert 'src="http' not in page and "//cdn" not in page


def test_optuna_dashboard_shows_the_studies_and_ends_with_the_dashboard(halfway: Path) -> None:
    with dashboard_of(halfway, options=()) as port:
        page = ask(port, "/")[1]
        optuna_port = int(page.partition('href="http://127.0.0.1:')[2].partition("/")[0])
        wait_until(lambda: reachable(optuna_port))
        summaries = json.loads(ask(optuna_port, "/api/studies")[1])["study_summaries"]
        assert {"1/8 cid", "1/4 cid"} <= {study["study_name"] for study in summaries}
        journal = (halfway / "study.journal").read_bytes()
        for method in ("DELETE", "POST", "PUT"):
            path = f"/api/studies/{summaries[0]['study_id']}"
            assert ask(optuna_port, path, method)[0] == 405
        for host in ("evil.example", f"127.0.0.1.evil.example:{optuna_port}"):
            assert ask(optuna_port, "/api/studies", host=host)[0] == 403
        assert (halfway / "study.journal").read_bytes() == journal
    wait_until(lambda: not reachable(optuna_port))


# ---- what is refused ----


def test_dashboard_of_folder_without_run_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.dashboard", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_listen_on_taken_port_is_refused_if_it_was_requested() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {taken} cannot be listened on"):
            listen("127.0.0.1", taken)
    with pytest.raises(InputError, match="--port 99999"):
        listen("127.0.0.1", 99999)


def test_listen_without_requested_port_takes_the_next_free_one() -> None:
    with listen("127.0.0.1", None) as one, listen("127.0.0.1", None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_dashboard_on_network_address_warns_and_allows_any_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dashboard.print_addresses("0.0.0.0", 8266, [])
    assert "without a password" in capsys.readouterr().out
    assert not allowed_hosts("0.0.0.0")
    assert "127.0.0.1" in allowed_hosts("::1")


# ---- with a search ----


def test_live_dashboard_ends_with_its_block(halfway: Path) -> None:
    port = free_port()
    lines: list[str] = []
    with sidecar.live_dashboard(port, halfway, lines.append):
        wait_until(lambda: reachable(port))
        assert ask(port, "/")[0] == 200
    assert any(line.startswith("dashboard http://") for line in lines)
    assert any(f"ssh -L {port}:127.0.0.1:{port}" in line for line in lines)
    wait_until(lambda: not reachable(port))


def test_live_dashboard_ends_when_its_parent_is_killed(halfway: Path) -> None:
    port = free_port()
    command = [sys.executable, "-c", PARENT, str(port), str(halfway)]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: parent.poll() is not None or reachable(port))
    assert parent.poll() is None
    parent.kill()
    parent.wait()
    wait_until(lambda: not reachable(port))


def test_live_dashboard_that_cannot_start_does_no_harm(halfway: Path) -> None:
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with sidecar.live_dashboard(taken, halfway, lines.append):
            wait_until(lambda: lines)
    error = f"error: --port {taken} cannot be listened on (Address already in use)"
    assert lines[0].startswith(error)


@pytest.mark.ray
@pytest.mark.slow
def test_search_survives_kill_of_its_dashboard(
    ray_cluster: str, small_demo: Path, tmp_path: Path
) -> None:
    """`tune --dashboard`: the page answers during the search; killing it ends no search."""
    out = tmp_path / "run"
    port = free_port()
    (tmp_path / "space.yaml").write_text(tiny_search(small_demo).to_yaml())
    command = ["cid_ray.tune", "--config", str(tmp_path / "space.yaml"), "--out", str(out)]
    command += ["--dashboard", str(port), "--trials", "1", "--set", "search.ratios=[1/8]"]
    search = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "RAY_ADDRESS": ray_cluster},
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: search.poll() is not None or reachable(port))
    assert search.poll() is None
    assert "trials finished" in ask(port, "/")[1]
    os.kill(dashboard_process(port), signal.SIGKILL)
    output, _ = search.communicate(timeout=150)
    assert search.returncode == 0
    assert f"dashboard http://127.0.0.1:{port}/" in output
    assert f"ssh -L {port}:127.0.0.1:{port}" in output
    assert (out / "report" / "index.html").is_file() and not reachable(port)
    assert "2 of 2 trials finished" in output and read_status(out)["state"] == "closed"


def dashboard_process(port: int) -> int:
    """The process id of the dashboard on this port."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            if is_dashboard(process.cmdline(), port):
                found.append(process.pid)
    assert len(found) == 1
    return found[0]


def is_dashboard(command: list[str], port: int) -> bool:
    return "cid_ray.dashboard" in command and str(port) in command and command[1] == "-c"
