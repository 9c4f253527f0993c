"""`python -m cid_ray.dashboard RUN...`: the live page of runs, with links to optuna-dashboard.

It reads run folders and needs neither torch nor ray. It works during a search, after it, on a
search that was killed, and on any machine that can read the folders or their object store. A run in
a store is shown from a copy that is refreshed every few seconds. The page listens on loopback; from
another machine it is reached with `ssh -L`.
"""

from __future__ import annotations

import signal
import socket
import sys

from cid_ray.cli.parser import make_parser, run_command
from cid_ray.cli.printing import say
from cid_ray.cli.sidecar import start_process
from cid_ray.results.listening import (
    DEFAULT_PORT,
    LOOPBACK,
    allowed_hosts,
    is_loopback,
    listen,
    url_host,
)
from cid_ray.results.live_page import ServedRun, open_runs
from cid_ray.results.optuna_dashboard import start_optuna_dashboards
from cid_ray.results.server import Site, serve
from cid_ray.storage.remote_view import open_read_only

EXAMPLES = """
  python -m cid_ray.dashboard runs/demo-20260101-120000
  python -m cid_ray.dashboard runs/* --port 9000 --no-optuna
  python -m cid_ray.dashboard s3://bucket/runs/mine runs/earlier
"""


def main(argv: list[str]) -> int:
    parser = make_parser("dashboard", __doc__ or "", EXAMPLES)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run folder, local or s3://...; several are compared",
    )
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address to listen on (default {LOOPBACK})"
    )
    parser.add_argument(
        "--port", type=int, help=f"port to listen on (default {DEFAULT_PORT}, or the next free one)"
    )
    parser.add_argument(
        "--no-optuna", action="store_true", help="do not start optuna-dashboard on the studies"
    )
    args = parser.parse_args(argv)
    # Until the server handles SIGTERM itself: a clean exit removes the copies of remote runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open_read_only(args.runs, say) as run_dirs:
        runs = open_runs(run_dirs)
        listener = listen(args.host, args.port)
        port = listener.getsockname()[1]
        processes = []
        if not args.no_optuna:
            processes = start_optuna_dashboards(runs, port, start_process)
        print_addresses(args.host, port, runs)
        try:
            serve(Site(runs, allowed_hosts(args.host)), listener)
        finally:
            for process in processes:
                process.terminate()
    return 0


def print_addresses(host: str, port: int, runs: list[ServedRun]) -> None:
    """Where the pages are, and how to reach them from another machine."""
    say(f"dashboard http://{url_host(host)}:{port}/")
    ports = [port]
    for run in runs:
        if run.optuna_url:
            say(f"optuna-dashboard of {run.slug} {run.optuna_url}")
            ports.append(int(run.optuna_url.rpartition(":")[2].strip("/")))
    if is_loopback(host):
        forwards = " ".join(f"-L {p}:{url_host(host)}:{p}" for p in ports)
        say(
            f"from another machine: ssh {forwards} {socket.gethostname()}, "
            "then open the same address"
        )
    else:
        say(
            f"warning: the dashboard listens on {host} without a password: "
            "anyone who can reach this port sees results and images"
        )


if __name__ == "__main__":
    run_command(main)
