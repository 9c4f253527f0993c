"""What all commands share: their options, the run's folder, and how mistakes and interrupts end them.

Exit codes: 0 done, 1 failed while working, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from cid_ray import checkpoints, places
from cid_ray.config import Config, InputError, load, override
from cid_ray.home import Home, new_home

Command = Callable[[list[str]], int]
SCREEN_FLAGS = {-1: ["-q"], 0: [], 1: ["-v"]}  # loudness -> how it is asked for
EPILOG = "Exit codes: 0 done, 1 failed while working, 2 bad input, 130 interrupted."


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are InputErrors, so that every command speaks and exits alike."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"{self.prog}: {message}; see `{self.prog} --help`")


def parser(name: str, description: str, examples: str) -> Parser:
    return Parser(
        prog=f"python -m cid_ray.{name}",
        description=description,
        epilog=f"examples:\n{examples.strip()}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_config_options(
    options: Parser,
    out: str = "the run's folder (default runs/NAME-TIME)",
    resume: bool = True,
    changeable: bool = False,
) -> None:
    options.add_argument("--config", metavar="FILE", help="YAML file; what it leaves out keeps its default")
    options.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="changes",
        help="change one value, e.g. loss.relation_weight=0.5; may be repeated",
    )  # fmt: skip
    options.add_argument("--out", metavar="DIR", help=out)
    if resume:
        options.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    options.set_defaults(changeable=changeable)  # may --config and --set come with --resume?


def add_screen_options(options: Parser) -> None:
    """-q and -v: `loudness` is what run.display.Display takes."""
    screen = options.add_mutually_exclusive_group()
    screen.add_argument(
        "-q", "--quiet", dest="loudness", action="store_const", const=-1, default=0,
        help="on the screen only how it ends, warnings and errors; log.txt stays complete",
    )  # fmt: skip
    screen.add_argument(
        "-v", "--verbose", dest="loudness", action="store_const", const=1,
        help="also where runs are between their rungs, tracebacks, and what Ray's processes print",
    )  # fmt: skip


def open_run(args: argparse.Namespace, name: str, default: str | Path | None = None) -> tuple[Config, Home]:
    """The resolved config and the run's folder: a new one, or that of --resume with the config kept there."""
    if args.resume:
        if args.out or ((args.config or args.changes) and not args.changeable):
            raise InputError("--resume DIR goes on with DIR's own config: leave out --config, --set and --out")
        home = Home(args.resume)
        home.fetch()
        kept = home.here / "config.yaml"
        if not kept.is_file():
            raise InputError(f"{home} is not a run's folder: it has no config.yaml")
        config = absolute(load(args.config or kept, args.changes))
        checkpoints.check_resumed(config, load(kept), home.name)
        return config, home
    config = absolute(load(args.config or default, args.changes))
    stem = Path(args.config or default or name).stem
    home = new_home(args.out, stem)
    checkpoints.check_new(config, home.name)
    if home.holds_run:
        raise InputError(
            f"--out {home} already holds a run; continue it with --resume {home}, or choose another folder"
        )
    return config, home


def absolute(config: Config) -> Config:
    """The same config with absolute paths: a trial's process works in a folder of its own."""
    paths = {"data.table": config.data.table, "data.split_files": config.data.split_files}
    paths["model.weights"] = config.model.weights
    found = {key: str(Path(path).resolve()) for key, path in paths.items() if path and Path(path).exists()}
    elsewhere = config.train.checkpoint_folder
    if elsewhere and not places.is_remote(elsewhere):
        found["train.checkpoint_folder"] = str(Path(elsewhere).resolve())
    if store := config.search.trackers.get("mlflow", {}).get("tracking_uri"):
        found["search.trackers.mlflow.tracking_uri"] = absolute_store(str(store))
    return override(config.model_dump(mode="json"), found)


def absolute_store(uri: str) -> str:
    """An MLflow store in a file or folder by its absolute path; any other as it is."""
    prefix = next(p for p in ("sqlite:///", "file://", "file:", "") if uri.startswith(p))
    path = uri.removeprefix(prefix)
    elsewhere = not path or path.startswith(("/", "databricks")) or "://" in path
    return uri if elsewhere else prefix + str(Path(path).resolve())


def claim(config: Config, home: Home) -> None:
    """Make the run's folder and keep the resolved config in it, whole or not at all."""
    try:
        with places.writing(home.here / "config.yaml") as file:
            file.write(config.to_yaml().encode())
        home.send()
    except OSError as error:
        raise InputError(f"--out {home} cannot be written ({error.strerror or error})") from None


def shipped(name: str, folder: str = "search_spaces", otherwise: str = "pass --config FILE") -> Path:
    """A file of a folder beside the package, from the working folder or from the source tree."""
    for root in (Path(), Path(__file__).resolve().parent.parent):
        if (root / folder / name).is_file():
            return root / folder / name
    raise InputError(f"{folder}/{name} is not here; run from the project's folder or {otherwise}")


def run(command: Command) -> None:
    """Run a command's main and leave with its exit code; never a traceback for what the user can mend."""
    try:
        code = command(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.exit(code)
