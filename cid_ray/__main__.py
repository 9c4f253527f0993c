"""`python -m cid_ray` and `cid-ray`: the list of commands; `cid-ray NAME` is `cid_ray.NAME`."""

from __future__ import annotations

import difflib
import importlib
import sys

from cid_ray import __version__
from cid_ray.cli.parser import run_command
from cid_ray.cli.printing import say
from cid_ray.cli.signals import exit_on_signals
from cid_ray.cli.streams import tolerate_lost_streams
from cid_ray.config.errors import InputError

COMMANDS = {
    "prepare": "images and masks -> an audited table; label splits",
    "train": "one training run: one process, or N workers with Ray Train and Ray Data",
    "tune": "search CID's hyperparameters at several label ratios with Ray Tune and Optuna",
    "scale": "what more labels, pool or workers would bring; what a search takes on N nodes",
    "evaluate": "score a trained network on a table: mIoU, boundaries, calibration, a page",
    "predict": "masks of a folder of images of any size, a table or an object store",
    "label_next": "which images of the pool to label next, with masks to correct",
    "pool": "what is in the pool: images unlike the labels, near-duplicates, outliers",
    "export": "a trained network as ONNX, torch.export or safetensors, compared with torch",
    "dashboard": "live page of one run or several, during a search and after it",
    "report": "rebuild the table and the page of a run from its records; compare several runs",
    "repair": "make the records and studies of a damaged run agree again",
    "cluster": "does a search fit on a cluster, how many trials concurrently, cost per hour",
    "doctor": "is this machine ready? a line per check, OK or what to do",
    "grafana": "give the dashboard of searches to Ray's Grafana",
}
# Loading it takes seconds.
LOAD_TORCH = ("train", "tune", "scale", "evaluate", "predict", "label_next", "pool")
TITLE = "cid_ray: Cross-Image Distillation for semi-supervised segmentation, searched with Ray"
NOTES = """`cid-ray NAME` is the same as `python -m cid_ray.NAME`. Each has --help.
`cid-ray tune` without options searches a generated data set: about six minutes on 2 CPU cores."""


def main(argv: list[str] | None = None) -> None:
    """Run one command, or print the list of commands.

    Args:
        argv: the command's name and its arguments; None: those of this process.
    """
    tolerate_lost_streams()
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        say(command_list())
    elif name == "--version":
        say(f"cid_ray {__version__}")
    elif name in COMMANDS:
        if name in LOAD_TORCH:
            exit_on_signals()
        run_command(importlib.import_module(f"cid_ray.{name}").main, arguments)
    else:
        run_command(unknown_command, [name])


def command_list() -> str:
    lines = [f"  python -m cid_ray.{name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join([TITLE, "", *lines, "", NOTES])


def unknown_command(argv: list[str]) -> int:
    name = argv[0]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"commands are {', '.join(COMMANDS)}"
    raise InputError(f"unknown command {name!r}; {hint}")


if __name__ == "__main__":
    main()
