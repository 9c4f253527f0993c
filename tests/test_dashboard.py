"""The dashboard as a process over HTTP: pages of a growing folder, news of it, and what it refuses."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cid_ray import beside, dashboard
from cid_ray.config import InputError
from cid_ray.results.pulse import read_pulse
from tests.searching import tiny_search

KEPT = Path(__file__).parent.parent / "benchmarks" / "results" / "camvid-cpu"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def dashboard_of(
    *runs: Path | str,
    options: tuple[str, ...] = ("--no-optuna",),
    end: int = signal.SIGTERM,
    lines: list[str] | None = None,
) -> Iterator[int]:
    """Its port, once it answers; what it says from then on is added to `lines` at its end."""
    port = free_port()
    command = [sys.executable, "-m", "cid_ray.dashboard", *map(str, runs), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"dashboard http://127.0.0.1:{port}/\n"
        yield port
    finally:
        process.send_signal(end)
        said, _ = process.communicate(timeout=30)
        if lines is not None:
            lines += said.splitlines()
        assert process.returncode == 0 and "Traceback" not in said, said


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace"), dict(answer.getheaders())


@contextlib.contextmanager
def news_of(port: int) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/news")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream"
    yield answer
    connection.close()


def next_news(answer: http.client.HTTPResponse) -> str:
    while (line := answer.readline().decode()) and not line.startswith("data: "):
        pass
    return line.removeprefix("data: ").strip()


def part_of(kept: Path, out: Path, rows: int) -> Path:
    """The beginning of a run's record."""
    out.mkdir()
    shutil.copy(kept / "config.yaml", out)
    lines = (kept / "rows.jsonl").read_text().splitlines(keepends=True)
    (out / "rows.jsonl").write_text("".join(lines[:rows]))
    return out


def test_rows_that_arrive_are_told_and_shown(tmp_path: Path) -> None:
    run = part_of(KEPT, tmp_path / "growing", 14)
    lines = (KEPT / "rows.jsonl").read_text().splitlines(keepends=True)
    with dashboard_of(run) as port, news_of(port) as news:
        status, page, _ = ask(port, "/")
        assert status == 200 and "mean teacher" not in page and page.count("<svg") == 2
        with (run / "rows.jsonl").open("a") as file:
            file.write("".join(lines[14:34]))
        assert next_news(news) == "growing"
        page = ask(port, "/")[1]
        assert "mean teacher" in page and page.count("<svg") == 4


def test_several_runs_stand_side_by_side(tmp_path: Path, halfway: Path) -> None:
    same = part_of(KEPT, tmp_path / "camvid-cpu", 20)
    with dashboard_of(KEPT, same, halfway) as port:
        page = ask(port, "/")[1]
        for name in ("camvid-cpu", "camvid-cpu-2", halfway.name):
            assert f'href="/run/{name}"' in page
            assert ask(port, f"/run/{name}")[0] == 200
        assert "49.44" in page
        assert ask(port, "/run/none")[0] == 404
        assert "38.25" in ask(port, "/run/camvid-cpu/report")[1]
        assert ask(port, "/run/camvid-cpu-2/report")[0] == 404


def test_pictures_are_handed_out_and_nothing_else(halfway: Path) -> None:
    with dashboard_of(halfway) as port:
        page = ask(port, "/")[1]
        pictures = [line.split('"')[0] for line in page.split('<img src="')[1:]]
        assert len(pictures) == 2 * 2 * 4  # ratios, images, pictures of each
        for path in pictures:
            status, _, headers = ask(port, path)
            assert status == 200 and headers["Content-Type"] == "image/png" and headers["Cache-Control"] == "no-store"
        base = f"/run/{halfway.name}/picture/"
        for path in ("study.journal", "rows.jsonl", "../config.yaml", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
                     "samples/../rows.jsonl", "checkpoints/1_8-supervised-000/last.pt"):  # fmt: skip
            assert ask(port, base + path)[0] in (400, 404), path


def test_only_its_own_name_and_only_reading(halfway: Path) -> None:
    with dashboard_of(halfway) as port:
        for host in (None, "localhost", f"127.0.0.1:{port}", "LOCALHOST:9999", "[::1]:80"):
            assert ask(port, "/", host=host)[0] == 200
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:80"):
            for path in ("/", "/news", "/style.css", f"/run/{halfway.name}"):
                assert ask(port, path, host=host)[0] == 403
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(port, "/", method)[0] == 405
        _, page, headers = ask(port, "/")
        assert (
            "default-src 'none'" in headers["Content-Security-Policy"] and "*" not in headers["Content-Security-Policy"]
        )
        assert 'src="http' not in page and "//cdn" not in page


def test_optuna_dashboard_stands_beside_it_and_ends_with_it(halfway: Path) -> None:
    with dashboard_of(halfway, options=()) as port:
        address = ask(port, "/")[1].partition('href="http://127.0.0.1:')[2].partition("/")[0]
        other = int(address)
        deadline = time.monotonic() + 60
        while not reachable(other):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        studies = json.loads(ask(other, "/api/studies")[1])
        assert {"1/8 cid", "1/4 cid"} <= {study["study_name"] for study in studies["study_summaries"]}
    deadline = time.monotonic() + 30
    while reachable(other):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def reachable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


# ---- what cannot be done ----


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cid_ray.dashboard", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_a_port_that_is_taken_is_refused_if_it_was_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {taken} cannot be listened on"):
            dashboard.listen("127.0.0.1", taken)
    with dashboard.listen("127.0.0.1", None) as one, dashboard.listen("127.0.0.1", None) as other:
        assert one.getsockname()[1] != other.getsockname()[1]  # else it takes the next
    with pytest.raises(InputError, match="--port 99999"):
        dashboard.listen("127.0.0.1", 99999)


def test_an_address_of_the_network_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.announce("0.0.0.0", [8266], [])
    assert "no password" in capsys.readouterr().out
    assert not dashboard.names("0.0.0.0") and "127.0.0.1" in dashboard.names("::1")


# ---- beside a search ----


def test_it_ends_with_the_block_beside_which_it_works(halfway: Path) -> None:
    port, said = free_port(), list[str]()
    with beside.dashboard(port, halfway, said.append):
        deadline = time.monotonic() + 60
        while not reachable(port):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(port, "/")[0] == 200
    assert any(line.startswith("dashboard http://") for line in said)
    assert any(f"ssh -L {port}:127.0.0.1:{port}" in line for line in said)
    deadline = time.monotonic() + 60
    while reachable(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_ends_when_the_other_is_killed(halfway: Path) -> None:
    port = free_port()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cid_ray import beside\n"
        "with beside.dashboard(int(sys.argv[1]), Path(sys.argv[2]), print):\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(port), str(halfway)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not reachable(port):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.wait()
    while reachable(port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_dashboard_that_cannot_start_does_no_harm(halfway: Path) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with beside.dashboard(taken, halfway, said.append):
            deadline = time.monotonic() + 60
            while not said:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert said[0].startswith(f"error: --port {taken} cannot be listened on (Address already in use)")


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_survives_its_dashboard(ray_cluster: str, small_demo: Path, tmp_path: Path) -> None:
    """`tune --dashboard`: it answers while the search works; killed in the middle, it takes nothing with it."""
    out, port = tmp_path / "run", free_port()
    (tmp_path / "space.yaml").write_text(tiny_search(small_demo).to_yaml())
    command = ["cid_ray.tune", "--config", str(tmp_path / "space.yaml"), "--out", str(out), "--dashboard", str(port)]
    command += ["--trials", "1", "--set", "search.ratios=[1/8]"]
    search = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "RAY_ADDRESS": ray_cluster}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 150
    while not reachable(port):
        assert search.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert "trials ended" in ask(port, "/")[1]
    os.kill(of_port(port), signal.SIGKILL)
    said, _ = search.communicate(timeout=150)
    assert search.returncode == 0
    assert f"dashboard http://127.0.0.1:{port}/" in said and f"ssh -L {port}:127.0.0.1:{port}" in said
    assert (out / "report" / "index.html").is_file() and not reachable(port)
    assert "2 of 2 trials ended" in said and read_pulse(out)["state"] == "closed"


def of_port(port: int) -> int:
    """The process whose command line names this port of the dashboard."""
    found = [p.pid for p in psutil.process_iter(["cmdline"]) if is_dashboard(p.info["cmdline"] or [], port)]
    assert len(found) == 1
    return found[0]


def is_dashboard(command: list[str], port: int) -> bool:
    return "cid_ray.dashboard" in command and str(port) in command and command[1] == "-c"
