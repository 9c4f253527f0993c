"""`--restarts N`: run the command in a child process, and resume it when that process is killed.

This covers a driver that is killed, for example by the kernel for its memory. The end of the whole
machine is left to what starts machines: `train --resume DIR` and `tune --resume DIR` continue on
any node that sees DIR.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time

from cid_ray.cli.parser import VERBOSITY_FLAGS
from cid_ray.cli.printing import say
from cid_ray.cli.signals import INTERRUPTED, STOP_NUMBERS, handle_signals
from cid_ray.config import InputError
from cid_ray.storage.run_dir import RunDir


def add_restarts_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--restarts",
        metavar="N",
        type=int,
        default=0,
        help="resume up to N times when this command is killed; needs --out or --resume",
    )


def supervise(module: str, argv: list[str], args: argparse.Namespace) -> int:
    """Run a command in child processes: a killed one is replaced up to `args.restarts` times.

    Args:
        module: the command's module, such as "cid_ray.train".
        argv: the command's arguments.
        args: the same, parsed.

    Returns:
        The exit code of the last child; 1 when the last allowed one was killed too.
    """
    folder = args.resume or args.out
    if not folder:
        raise InputError("--restarts N resumes from a run folder: name it with --out DIR")
    if args.restarts < 0:
        raise InputError(f"--restarts {args.restarts} must not be negative")
    started = time.monotonic()
    child_argv = without_restarts(argv)
    for restarts_left in range(args.restarts, -1, -1):
        code, asked_to_end = _run_child([sys.executable, "-m", module, *child_argv])
        if code >= 0:
            return code
        killed_by = signal.Signals(-code)
        if asked_to_end or killed_by in STOP_NUMBERS:
            return INTERRUPTED
        next_step = f"resuming, {restarts_left} restart(s) left"
        if not restarts_left:
            next_step = "no restart is left"
        say(f"killed by {killed_by.name}; {next_step}")
        # Without a run folder the child was killed before it had started: run the same command.
        if RunDir(folder).exists:
            child_argv = _resume_argv(folder, args, time.monotonic() - started)
    return 1


def _resume_argv(folder: str, args: argparse.Namespace, elapsed_s: float) -> list[str]:
    """Arguments that resume the run. It keeps its config, so --config and --set are left out."""
    argv = ["--resume", folder, *VERBOSITY_FLAGS[args.verbosity]]
    # Only `tune` has --dashboard and --budget.
    dashboard = getattr(args, "dashboard", None)
    if dashboard is not None:
        argv += ["--dashboard", str(dashboard)]
    budget_s = getattr(args, "budget", None)
    if budget_s:
        argv += ["--budget", str(max(1.0, budget_s - elapsed_s))]
    return argv


def _run_child(command: list[str]) -> tuple[int, bool]:
    """Run a command to its end, and forward SIGINT and SIGTERM to it.

    Returns:
        Its exit code, minus the signal's number if it was killed, and whether a signal was
        forwarded.
    """
    child = subprocess.Popen(command)
    forwarded: list[int] = []

    def forward(number: int) -> None:
        forwarded.append(number)
        child.send_signal(number)

    with handle_signals(forward):
        return child.wait(), bool(forwarded)


def without_restarts(argv: list[str]) -> list[str]:
    """`argv` without --restarts and its value, in every spelling that argparse accepts."""
    parser = argparse.ArgumentParser(add_help=False)
    add_restarts_option(parser)
    return parser.parse_known_args(argv)[1]
