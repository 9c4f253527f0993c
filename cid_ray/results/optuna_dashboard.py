"""Starts optuna-dashboard on the studies of run folders, for the links of the live page."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec

from cid_ray.results.listening import LOOPBACK, free_port_after
from cid_ray.results.live_page import ServedRun

# The module behind the console script `optuna-dashboard`. It is private, but the package has no
# __main__, and a script's path says nothing about the Python it runs in. Tested: 0.17 and 0.21.
OPTUNA_DASHBOARD_MODULE = "optuna_dashboard._cli"
JOURNAL_FILE = "study.journal"
# by default it takes gunicorn where that is installed; wsgiref is part of Python
SERVER_OPTIONS = ("--server", "wsgiref", "--quiet")

StartModule = Callable[..., "subprocess.Popen[str]"]  # cli.sidecar.start_process


def start_optuna_dashboards(
    runs: list[ServedRun], port: int, start_module: StartModule
) -> list[subprocess.Popen[str]]:
    """Start one optuna-dashboard per run that has a journal, on loopback.

    Sets `optuna_url` of these runs. Does nothing when optuna-dashboard is not installed.

    Args:
        runs: the runs of the site.
        port: the port of the live page; the next free ones are taken.
        start_module: starts `python -m MODULE ARGS` as a process that ends with this one.

    Raises:
        InputError: no port is free.
    """
    if find_spec("optuna_dashboard") is None:
        return []
    processes = []
    for run in runs:
        journal = run.folder / JOURNAL_FILE
        if not journal.is_file():
            continue
        port = free_port_after(port)
        address = ("--host", LOOPBACK, "--port", str(port))
        processes.append(
            start_module(
                OPTUNA_DASHBOARD_MODULE, str(journal), *address, *SERVER_OPTIONS, quiet=True
            )
        )
        run.optuna_url = f"http://{LOOPBACK}:{port}/"
    return processes
