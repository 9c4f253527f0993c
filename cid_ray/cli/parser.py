"""The options that commands share, and how mistakes and interrupts end a command.

Exit codes: 0 done, 1 failed while working, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from cid_ray.cli.printing import say
from cid_ray.cli.signals import INTERRUPTED, exit_now, is_listening
from cid_ray.cli.streams import tolerate_lost_streams
from cid_ray.config import InputError
from cid_ray.storage.paths import RIGHTS_ERRNOS, STORAGE_ERRNOS
from cid_ray.storage.user_dirs import ensure_home

MAX_MESSAGE_CHARS = 500  # argparse repeats the value, which may be of any length
QUIET = -1
NORMAL = 0
VERBOSE = 1
VERBOSITY_FLAGS = {QUIET: ["-q"], NORMAL: [], VERBOSE: ["-v"]}
# Exit codes.
DONE = 0
FAILED = 1
BAD_INPUT = 2
LISTENER_EXIT_S = 3.0  # in which the listening thread ends the process
EPILOG = "Exit codes: 0 done, 1 failed while working, 2 bad input, 130 interrupted."

Command = Callable[[list[str]], int]


class Parser(argparse.ArgumentParser):
    """argparse with InputErrors, so that every mistake has the same form and exit code."""

    def error(self, message: str) -> NoReturn:
        shown = (
            message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}..."
        )
        raise InputError(f"{self.prog}: {shown}; see `{self.prog} --help`")


def make_parser(name: str, description: str, examples: str) -> Parser:
    """The parser of the command `python -m cid_ray.NAME`; its help ends with the examples."""
    return Parser(
        prog=f"python -m cid_ray.{name}",
        description=description,
        epilog=f"examples:\n{examples.strip()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_options(
    parser: Parser,
    out_help: str = "the run folder (default runs/NAME-TIME)",
    *,
    resume: bool = True,
) -> None:
    """--config, --set, --out and --resume, which `run_options.open_run` reads.

    Args:
        parser: the command's parser.
        out_help: help text of --out.
        resume: whether there is --resume.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file, or a search space of cid_ray: demo, camvid, voc or cityscapes; "
        "keys that it leaves out keep their defaults"
        + ("; or RUN[:RATIO]: what the best trial of a search trained with" if resume else ""),
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change one value, e.g. loss.relation_weight=0.5; may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", help=out_help)
    if resume:
        parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder")


def add_verbosity_options(parser: Parser) -> None:
    """-q and -v, as `args.verbosity`: QUIET, NORMAL or VERBOSE."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=QUIET,
        default=NORMAL,
        help="print only results, warnings and errors; log.txt still has every event",
    )
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=VERBOSE,
        help="also print progress between rungs, tracebacks, and the output of Ray's processes",
    )


def run_command(command: Command, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command's `main` and exit with its code.

    The user gets no traceback for what they can fix.

    Args:
        command: the `main` of a module in cid_ray.
        argv: its arguments; None: those of this process.
    """
    tolerate_lost_streams()
    if warning := ensure_home():
        say(f"warning: {warning}", error=True)
    try:
        code = command(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        say(f"error: {error}", error=True)
        code = BAD_INPUT
    except KeyboardInterrupt:
        say("interrupted", error=True)
        code = INTERRUPTED
    except SystemExit as error:
        if not (is_listening() and error.code == signal.SIGTERM):
            raise
        # The handler that `ray.init` sets in Python; the listening thread has heard it too.
        time.sleep(LISTENER_EXIT_S)
        code = INTERRUPTED
    except OSError as error:
        if error.errno not in (*STORAGE_ERRNOS, *RIGHTS_ERRNOS):
            say(traceback.format_exc(), error=True)
        else:
            say(f"failed: {error.filename or 'the disk'}: {error.strerror}", error=True)
        code = FAILED
    except Exception:
        say(traceback.format_exc(), error=True)
        code = FAILED
    sys.stdout.flush()
    if code == INTERRUPTED and is_listening():
        exit_now("")  # stopping Ray in order takes seconds, and may hang after an interrupt
    sys.exit(code)
