"""Ray on this machine and on the cluster that a search would join: both are used for a moment.

A search begins with the same call, `start_ray`. What is found here is what a search would meet.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from cid_ray import __version__
from cid_ray.config import InputError, error_summary
from cid_ray.diagnostics.machine import check_free_space
from cid_ray.diagnostics.runner import Limited
from cid_ray.resources.ray_files import check_ray_temp_dir, ray_temp_dir
from cid_ray.resources.ray_session import cluster_to_join, start_ray

ANSWER_TIMEOUT_S = 40.0
TOKEN_HINT = (
    "`ray get-auth-token` on the cluster's head prints its token; put it into RAY_AUTH_TOKEN, with "
    "RAY_AUTH_MODE=token"
)
VERSION_HINT = "install the cluster's versions of Ray and Python here, or these on every node"


def check_ray_here() -> str:
    """Start a Ray of this machine's own, and let a worker answer."""
    folder = Path(ray_temp_dir())
    check_ray_temp_dir(folder)
    os.environ["RAY_ADDRESS"] = "local"
    found = use_ray()
    free = check_free_space(folder, "name another disk in RAY_TMPDIR")
    return f"starts, with its files in {folder}, {free}; {found}"


def check_ray_cluster() -> str:
    """Join the cluster of RAY_ADDRESS or a running one of this machine, and let a worker answer."""
    address = cluster_to_join()
    if address is None:
        return "no cluster is running or named in RAY_ADDRESS: a search starts Ray on this machine"
    try:
        return f"{address}, {use_ray()}, {describe_token()}"
    except InputError as error:
        if "cannot be joined" not in str(error):
            raise
        # Ray does not tell a wrong or missing token from a cluster that is gone.
        hint = f"it answers, so if it demands a token: {TOKEN_HINT}"
        if "ersion mismatch" in str(error):
            hint = VERSION_HINT
        raise InputError(f"{error}; {hint}") from None


def use_ray() -> str:
    """What the joined or started Ray has, after one of its workers has answered."""
    import ray

    try:
        start_ray()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        check_worker(ray_answer(ray))
    except ray.exceptions.AuthenticationError as error:
        reason = error_summary(error).partition(". ")[0]
        raise InputError(f"{reason}; {TOKEN_HINT}") from None
    finally:
        ray.shutdown()
    size = f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
    return f"Ray {ray.__version__}, {len(nodes)} node{'s' * (len(nodes) > 1)}, {size}"


def ray_answer(ray: Any) -> tuple[str, str]:
    """Versions of Python and cid_ray in a worker."""
    task = ray.remote(num_cpus=0)(worker_versions)
    try:
        answer: tuple[str, str] = ray.get(task.remote(), timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        raise Limited(
            f"it can be joined, but no worker answered within {ANSWER_TIMEOUT_S:g} s; see "
            "`ray status`, and the logs below its temporary folder"
        ) from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[-300:]
        raise InputError(
            f"a worker failed ({reason}); every node needs cid_ray {__version__}"
        ) from None
    return answer


def worker_versions() -> tuple[str, str]:
    """In a worker: the versions that it has."""
    return platform.python_version(), __version__


def check_worker(found: tuple[str, str]) -> None:
    """Raise InputError when a worker has other versions than this process."""
    mine = worker_versions()
    if found != mine:
        raise InputError(
            f"its workers have Python {found[0]} and cid_ray {found[1]}, this process has Python "
            f"{mine[0]} and cid_ray {mine[1]}; install the same versions on every node"
        )


def describe_token() -> str:
    used = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    return "with a token" if used else "without a token"
