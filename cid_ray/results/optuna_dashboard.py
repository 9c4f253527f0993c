"""Starts optuna-dashboard on the studies of run folders, for the links of the live page."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec

from cid_ray.results.listening import LOOPBACK, free_port_after
from cid_ray.results.live_page import ServedRun

SERVER_MODULE = "cid_ray.search.optuna_server"
JOURNAL_FILE = "study.journal"

StartModule = Callable[..., "subprocess.Popen[str]"]  # cli.sidecar.start_process


def start_optuna_dashboards(
    runs: list[ServedRun], port: int, start_module: StartModule
) -> list[subprocess.Popen[str]]:
    """Start one read-only optuna-dashboard per run that has a journal, on loopback.

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
        processes.append(start_module(SERVER_MODULE, str(journal), str(port), quiet=True))
        run.optuna_url = f"http://{LOOPBACK}:{port}/"
    return processes
