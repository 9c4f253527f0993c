"""`python -m cid_ray.dashboard` as a process, and a client that asks it over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.ports import free_port

# A finished run that is part of the repository.
KEPT_RUN = Path(__file__).parents[2] / "benchmarks" / "results" / "camvid-cpu"


@contextlib.contextmanager
def dashboard_of(
    *runs: Path | str,
    options: tuple[str, ...] = ("--no-optuna",),
    end: int = signal.SIGTERM,
    lines: list[str] | None = None,
) -> Iterator[int]:
    """A dashboard of these runs until the block ends; gives its port once it answers.

    What it prints after its address is added to `lines` at its end.
    """
    port = free_port()
    command = [sys.executable, "-m", "cid_ray.dashboard", *map(str, runs)]
    process = subprocess.Popen(
        [*command, "--port", str(port), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"dashboard http://127.0.0.1:{port}/\n"
        yield port
    finally:
        process.send_signal(end)
        output, _ = process.communicate(timeout=30)
        if lines is not None:
            lines += output.splitlines()
        assert process.returncode == 0 and "Traceback" not in output, output


def ask(
    port: int, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace"), dict(response.getheaders())


@contextlib.contextmanager
def event_stream(port: int) -> Iterator[http.client.HTTPResponse]:
    """The server-sent events of a dashboard."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "text/event-stream"
    yield response
    connection.close()


def next_event(response: http.client.HTTPResponse) -> str:
    """The data of the next event; waits for it."""
    while (line := response.readline().decode()) and not line.startswith("data: "):
        pass
    return line.removeprefix("data: ").strip()


def sample_images(page: str) -> list[str]:
    """The paths of a page's images."""
    return [part.split('"')[0] for part in page.split('<img src="')[1:]]


def first_records(kept: Path, out: Path, count: int) -> Path:
    """A run folder with the first records of another run."""
    out.mkdir()
    shutil.copy(kept / "config.yaml", out)
    lines = (kept / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join(lines[:count]))
    return out
