"""`--restarts N`: the command runs in a process of its own and, when that is killed, goes on from its last checkpoint.

For a driver that the kernel kills for memory, or whoever sends it SIGKILL. The machine's own end is for whoever starts
machines: `train --resume DIR` and `tune --resume DIR` go on with what DIR holds, on any node that sees it.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from types import FrameType

from cid_ray import cli
from cid_ray.config import InputError
from cid_ray.home import Home


def add_option(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--restarts", metavar="N", type=int, default=0,
        help="go on so often when this command's process is killed; needs --out or --resume",
    )  # fmt: skip


def guard(module: str, argv: list[str], args: argparse.Namespace) -> int:
    """The exit code of the last of the processes; those that were killed are replaced `args.restarts` times."""
    folder = args.resume or args.out
    if not folder:
        raise InputError("--restarts N goes on with a run's folder: name it with --out DIR")
    if args.restarts < 0:
        raise InputError(f"--restarts {args.restarts} must not be negative")
    own, budget, started = without_option(argv), getattr(args, "budget", None), time.monotonic()
    for left in range(args.restarts, -1, -1):
        code = watch([sys.executable, "-m", module, *own])
        if code >= 0 or -code in (signal.SIGINT, signal.SIGTERM):
            return code if code >= 0 else 130
        name = signal.Signals(-code).name
        print(
            f"killed by {name}; " + (f"going on, {left} restart(s) left" if left else "no restart is left"), flush=True
        )
        if Home(folder).holds_run:  # else it had not begun
            own = ["--resume", folder, *cli.SCREEN_FLAGS[args.loudness]]
            if getattr(args, "dashboard", None) is not None:
                own += ["--dashboard", str(args.dashboard)]
            if budget:
                own += ["--budget", str(max(1.0, budget + started - time.monotonic()))]
    return 1


def watch(command: list[str]) -> int:
    """Run a command to its end; what asks this process to end is handed on to it."""
    child = subprocess.Popen(command)

    def hand_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    former = signal.signal(signal.SIGTERM, hand_on)
    typed = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the child by itself
    try:
        return child.wait()
    finally:
        signal.signal(signal.SIGTERM, former)
        signal.signal(signal.SIGINT, typed)


def without_option(argv: list[str]) -> list[str]:
    """`argv` less --restarts and its value."""
    parser = argparse.ArgumentParser(add_help=False)
    add_option(parser)
    return parser.parse_known_args(argv)[1]
