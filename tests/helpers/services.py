"""Programs and rights that some tests need and a machine may lack: one rule for all of them.

A test without its service is skipped, with the reason and the remedy. It fails instead where
CID_RAY_REQUIRE_SERVICES is 1, as in `.ci/run`: there a skip would hide that a law is unchecked.
Real data (CID_RAY_DATA) is no service. Without it tests are always skipped.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from typing import Any

import pytest

REQUIRE_SERVICES = "CID_RAY_REQUIRE_SERVICES"

# What a service is called in tests -> how to get it.
REMEDIES = {
    "cgroup": "needs the CPU controller of cgroup v1 or v2, and root",
    "chromium": "apt-get install chromium",
    "initdb": "apt-get install postgresql",
    "mount namespace": "needs `unshare` and root, or sudo without a password",
    "network namespace": "needs root and iproute2",
    "openssl": "apt-get install openssl",
    "pid namespace": "needs `unshare` and root, or sudo without a password",
    "postgres": "apt-get install postgresql",
    "prometheus": "apt-get install prometheus",
    "redis-server": "apt-get install redis-server",
    "shellcheck": "pip install -e '.[dev]'",
    "user namespace": "needs `unshare` and a kernel that allows user namespaces",
    "slurm": "apt-get install slurm-wlm munge",
    "tmpfs": "mounting needs root, or sudo without a password",
}


def require_service(name: str, found: object) -> None:
    """Skip the test, or fail it under CID_RAY_REQUIRE_SERVICES=1, unless the service was found.

    Args:
        name: a key of REMEDIES, or a Python package.
        found: anything true when the service is there.
    """
    if found:
        return
    remedy = REMEDIES.get(name, f"pip install {name.partition('.')[0].replace('_', '-')}")
    reason = f"{name} is not available here: {remedy}"
    if os.environ.get(REQUIRE_SERVICES) == "1":
        pytest.fail(f"{reason} ({REQUIRE_SERVICES} is 1)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def require_package(name: str) -> Any:
    """Import a module of a package that `pip install -e .[dev]` brings, or skip or fail."""
    try:
        return importlib.import_module(name)
    except ImportError:
        require_service(name, None)


def find_program(name: str, *others: str) -> str | None:
    """Path of the first of these programs that is installed."""
    return next((path for each in (name, *others) if (path := shutil.which(each))), None)


def as_root(*command: str) -> list[str]:
    """The command for root: as it is, or through sudo where this user is not root."""
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]


def succeeds(*command: str) -> bool:
    """Whether a command exists and exits with 0."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False
