"""Ray here and on a cluster: used for a moment, by real heads and workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cid_ray.config import InputError
from cid_ray.diagnostics.ray_checks import check_ray_cluster, check_ray_here, check_worker
from cid_ray.diagnostics.runner import Check, Result, run_checks
from cid_ray.resources import ray_files
from cid_ray.resources.ray_files import LONGEST_SOCKET, check_ray_temp_dir
from tests.helpers.ports import free_port
from tests.helpers.ray_head import RayHead, ray_head


def in_own_process(check: Check, **env: str) -> Result:
    """The result of one check with this environment of Ray alone."""

    def with_env() -> str:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(env)
        return check.run()

    (result,) = run_checks([Check(check.name, with_env, 120)])
    return result


# ---- Ray's folder ----


@pytest.mark.parametrize("extra", [0, 1])
def test_folder_is_too_long_from_one_character_on(tmp_path: Path, extra: int) -> None:
    room = ray_files.MAX_SOCKET_NAME - len(LONGEST_SOCKET) - 1
    folder = Path("/tmp/" + "x" * (room - len("/tmp/") + extra))
    if extra:
        with pytest.raises(InputError, match=r"is 1 characters too long .*RAY_TMPDIR"):
            check_ray_temp_dir(folder)
    else:
        check_ray_temp_dir(folder)


def test_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(InputError, match=r"/proc cannot be written .*RAY_TMPDIR"):
        check_ray_temp_dir(Path("/proc/ray"))


@pytest.mark.process
def test_ray_here_with_a_long_folder_does_not_start_it(tmp_path: Path) -> None:
    folder = f"{tmp_path}/{'x' * 90}"
    result = in_own_process(Check("Ray here", check_ray_here), RAY_TMPDIR=folder)
    assert result.status == "FAIL" and "too long for the names of Ray's sockets" in result.text


# ---- a cluster ----


@pytest.mark.process
def test_cluster_that_does_not_answer_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    result = in_own_process(Check("Ray cluster", check_ray_cluster), RAY_ADDRESS=address)
    assert result.status == "FAIL" and f"RAY_ADDRESS={address}: nothing answers" in result.text


def test_workers_of_another_version_are_named() -> None:
    with pytest.raises(InputError, match=r"its workers have Python 3.9.1 and cid_ray 0.0.1, this"):
        check_worker(("3.9.1", "0.0.1"))


@pytest.mark.ray
@pytest.mark.slow  # tests/test_doctor.py starts one too
@pytest.mark.process
def test_ray_here_starts_and_a_worker_answers() -> None:
    result = in_own_process(Check("Ray here", check_ray_here))
    assert result.status == "OK" and "1 node, " in result.text, result


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with ray_head() as head:
        yield head


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.process
def test_cluster_with_a_token_is_joined_by_who_has_it(head: RayHead) -> None:
    address = f"127.0.0.1:{head.ports['port']}"
    check = Check("Ray cluster", check_ray_cluster)
    env = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
    joined = in_own_process(check, **env, RAY_AUTH_TOKEN=head.token)
    assert joined.status == "OK" and "1 node, 2 CPUs, 0 GPUs, with a token" in joined.text
    for wrong in ({"RAY_AUTH_TOKEN": "0" * 64}, {"HOME": "/proc/version/home"}):
        refused = in_own_process(check, **env, **wrong)
        assert refused.status == "FAIL" and "`ray get-auth-token`" in refused.text, refused
