"""`python -m cid_ray.dashboard RUN...`: the live results page of one run or several, and optuna-dashboard beside it.

It reads run folders and needs neither torch nor ray: it works during a search, after it, on one that was killed, and on
any machine that sees the folders, or the object store in which they lie. Of a run in a store it shows a copy that is
brought up to date every few seconds (mirror.py); optuna-dashboard lags behind by as much, and what is noted there is
gone with the copy. It listens on loopback; from elsewhere, `ssh -L` leads to it.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from cid_ray import beside, cli
from cid_ray.config import InputError
from cid_ray.home import Home
from cid_ray.mirror import mirrors
from cid_ray.results.live_page import Shown, read_config
from cid_ray.results.serve import LOOPBACK_NAMES, Site, serve

PORT, TRIED = 8266, 50
LOOPBACK = "127.0.0.1"
EXAMPLES = """
  python -m cid_ray.dashboard runs/demo-20260101-120000
  python -m cid_ray.dashboard runs/* --port 9000 --no-optuna
  python -m cid_ray.dashboard s3://bucket/runs/mine runs/mine-before
"""


def main(argv: list[str]) -> int:
    options = cli.parser("dashboard", __doc__ or "", EXAMPLES)
    options.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run's folder, here or s3://...; several side by side"
    )
    options.add_argument("--host", default=LOOPBACK, help=f"address to listen on (default {LOOPBACK})")
    options.add_argument("--port", type=int, help=f"port to listen on (default {PORT}, or the next that is free)")
    options.add_argument("--no-optuna", action="store_true", help="leave out optuna-dashboard on the same studies")
    args = options.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server answers to it: a copy goes at any end
    with mirrors(args.runs, functools.partial(print, flush=True)) as homes:
        runs = open_runs(homes)
        listener = listen(args.host, args.port)
        port = listener.getsockname()[1]
        beside_it = [] if args.no_optuna else start_optuna(runs, port)
        ports = [port, *(int(run.optuna.rpartition(":")[2].strip("/")) for run in runs if run.optuna)]
        announce(args.host, ports, runs)
        try:
            serve(Site(runs, names(args.host)), listener)
        finally:
            for process in beside_it:
                process.terminate()
    return 0


def open_runs(homes: Sequence[Home]) -> list[Shown]:
    """Each under a short name of its own; InputError for a folder that holds no run."""
    runs: dict[str, Shown] = {}
    for home in homes:
        if not any((home.here / name).is_file() for name in ("config.yaml", "rows.jsonl")):
            raise InputError(f"{home} is not a run's folder: it has neither config.yaml nor rows.jsonl")
        read_config(home.here)  # an InputError now, not on a page
        name = slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in home.own_name) or "run"
        number = 2
        while slug in runs:
            slug, number = f"{name}-{number}", number + 1
        runs[slug] = Shown(slug, home)
    return list(runs.values())


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket: on the port that was asked for, else on the first free one from PORT on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(PORT, PORT + TRIED):
        try:
            return socket.create_server((host, candidate), family=family)
        except (OSError, OverflowError) as error:
            if port is None and getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            asked = f"--port {port}" if port is not None else f"--host {host}"
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise InputError(f"{asked} cannot be listened on ({reason}); choose another, or leave it out") from None
    raise InputError(f"ports {PORT} to {PORT + TRIED - 1} are all taken; choose one with --port")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names(host: str) -> tuple[str, ...]:
    """What a request may call this server; none: anything, for it is meant to be reached from elsewhere."""
    return tuple(dict.fromkeys([*LOOPBACK_NAMES, host])) if is_loopback(host) else ()


def start_optuna(runs: list[Shown], port: int) -> list[subprocess.Popen[str]]:
    """optuna-dashboard for every run that has a journal, on loopback and the next free ports."""
    if find_spec("optuna_dashboard") is None:
        return []
    started = []
    for run in runs:
        journal = run.folder / "study.journal"
        if not journal.is_file():
            continue
        port = free_after(port)
        where = ("--host", LOOPBACK, "--port", str(port), "--server", "wsgiref", "--quiet")
        started.append(beside.start("optuna_dashboard._cli", str(journal), *where, quiet=True))
        run.optuna = f"http://{LOOPBACK}:{port}/"
    return started


def free_after(port: int) -> int:
    for candidate in range(port + 1, port + 1 + TRIED):
        try:
            socket.create_server((LOOPBACK, candidate)).close()
            return candidate
        except (OSError, OverflowError):
            continue
    raise InputError(f"no port is free after {port} for optuna-dashboard; leave it out with --no-optuna")


def announce(host: str, ports: list[int], runs: list[Shown]) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"dashboard http://{shown}:{ports[0]}/", flush=True)
    for run in runs:
        if run.optuna:
            print(f"optuna-dashboard of {run.slug} {run.optuna}", flush=True)
    if is_loopback(host):
        forwards = " ".join(f"-L {port}:{shown}:{port}" for port in ports)
        print(f"from another machine: ssh {forwards} {socket.gethostname()}  and open the same address", flush=True)
    else:
        print(
            f"warning: it listens on {host} and has no password: whoever reaches this port sees results and pictures",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main)
