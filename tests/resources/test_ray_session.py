"""Joining Ray: an address that does not answer is one line within seconds, never minutes."""

from __future__ import annotations

import http.server
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.resources import _ray_compat, ray_session
from tests.helpers.ports import free_port


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of something that is no Ray cluster."""
    handler = http.server.SimpleHTTPRequestHandler
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("address", ["nonsense", ":6379", "host:", "host:port", "ray://host"])
def test_address_without_host_and_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=r"must be host:port.*unset it to run on this machine"):
        ray_session.cluster_to_join()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_where_nothing_listens_is_refused(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match=r"nothing answers there within 10 s .*refused"):
        ray_session.cluster_to_join()


def test_address_of_a_web_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, web_server: str
) -> None:
    monkeypatch.setattr(ray_session, "JOIN_TIMEOUT_S", 1.0)
    monkeypatch.setenv("RAY_ADDRESS", web_server)
    with pytest.raises(InputError, match="what answers there is no Ray cluster"):
        ray_session.cluster_to_join()


@pytest.mark.parametrize("recorded", [None, "127.0.0.1:1"])
def test_record_of_a_dead_cluster_is_ignored_unless_auto_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, recorded: str | None
) -> None:
    monkeypatch.setattr(_ray_compat, "recorded_address", lambda: recorded)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_session.cluster_to_join() is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match=r"no Ray cluster runs on this machine.*ray start --head"):
        ray_session.cluster_to_join()


@pytest.mark.ray
def test_running_cluster_is_joined(monkeypatch: pytest.MonkeyPatch, ray_cluster: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    assert ray_session.cluster_to_join() == ray_cluster
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(_ray_compat, "recorded_address", lambda: ray_cluster)
    assert ray_session.cluster_to_join() == ray_cluster


@pytest.mark.process
@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS=127.0.0.1:1: nothing answers there"),
        ({"RAY_TMPDIR": "long"}, "characters too long for the names of Ray's sockets; name a"),
        ({"TMPDIR": "long"}, "characters too long for the names of Ray's sockets; name a"),
        ({"ulimit": "12"}, "`ulimit -v` lets a process map 12.0 GiB, and Ray's need 20 GiB"),
    ],
)
def test_tune_that_cannot_have_ray_ends_with_one_line_before_it_writes(
    tmp_path: Path, env: dict[str, str], message: str
) -> None:
    folder = tmp_path / ("x" * 100)  # a socket's name has at most 107 characters
    folder.mkdir()
    env = {name: str(folder) if value == "long" else value for name, value in env.items()}
    limit = int(env.pop("ulimit", 0)) << 30

    def limit_address_space() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    command = [sys.executable, "-m", "cid_ray.tune", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        command,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limit_address_space if limit else None,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
