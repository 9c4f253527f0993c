"""From parsed options to a run: its configuration and its run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from cid_ray.cli.parser import QUIET
from cid_ray.cli.printing import say
from cid_ray.config import Config, InputError, build_config, load_config
from cid_ray.results.chosen_run import choose_run, split_choice
from cid_ray.results.records import RECORDS_FILE, read_records
from cid_ray.results.run_kind import LADDERS, check_ladder_folder, refuse_ladder
from cid_ray.results.summary import summarize
from cid_ray.storage import checkpoint_paths, paths
from cid_ray.storage.packaged import named_file
from cid_ray.storage.remote_view import ReadOnlyRunDir
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir, new_run_dir


def open_run(
    args: argparse.Namespace, name: str, default: str | Path | None = None
) -> tuple[Config, RunDir]:
    """The configuration and the run folder that the options ask for.

    Args:
        args: options of `parser.add_config_options`.
        name: the command's or the ladder's name, for the run folder of a run without a config file.
        default: the config file that is used without --config.

    Returns:
        The configuration with absolute paths. With --resume it is the one in the run folder, and
        the run folder is the existing one.

    Raises:
        InputError: an option does not fit, or the run folder or its checkpoints cannot be used.
    """
    if args.resume:
        return _open_existing_run(args, name)
    if args.config and (run := _named_run(args.config)):
        config, stem = config_of_run(*run, args.changes), name
    else:
        source = config_file(args.config or default, args.verbosity)
        config, stem = load_config(source, args.changes), Path(source or name).stem
    config = resolve_paths(config)
    run_dir = new_run_dir(args.out, stem)
    checkpoint_paths.check_new_checkpoints(config, run_dir.uri)
    run_dir.check_new()
    return config, run_dir


def config_of_run(folder: str, choice: str, changes: list[str]) -> Config:
    """The configuration of a run in a folder: method, label ratio and hyperparameters are its own.

    Args:
        folder: of a search or a training.
        choice: a label ratio, the name of a trial, or "" for the best CID trial at the most labels.
        changes: as after --set; they come last.

    Raises:
        InputError: the folder holds a ladder, or no such run.
    """
    with ReadOnlyRunDir(folder) as run_dir:
        run_dir.pull()
        refuse_ladder(run_dir)
        config = load_run_config(run_dir)
        records = read_records(run_dir.local)
        final = choose_run(records, summarize(records, config.search.metric), choice, folder)
    chosen = {"method": final["method"], "data.ratio": final["ratio"], **final.get("params", {})}
    own = build_config(config.model_dump(mode="json"), chosen)
    return build_config(own.model_dump(mode="json"), changes)


def _named_run(name: str) -> tuple[str, str] | None:
    """Run folder and choice of --config RUN[:RATIO]; None of a file or a search space."""
    folder, choice = split_choice(name)
    if paths.exists(paths.join(folder, RECORDS_FILE)):
        return folder, choice
    if choice:
        raise InputError(f"--config {name}: {folder} is no run folder, it has no {RECORDS_FILE}")
    return None


def config_file(name: str | Path | None, verbosity: int = QUIET) -> Path | None:
    """The file that --config names; on a console that is not quiet a bare name is explained."""
    if name is None:
        return None
    path = named_file(name, "search_spaces")
    if path != Path(name) and verbosity > QUIET:
        say(f"config {path}")
    return path


def _open_existing_run(args: argparse.Namespace, name: str) -> tuple[Config, RunDir]:
    if args.out:
        raise InputError("--resume DIR continues in DIR; leave out --out")
    run_dir = RunDir(args.resume)
    run_dir.pull()
    if name in LADDERS:
        check_ladder_folder(run_dir, name, read_records(run_dir.local))
    else:
        refuse_ladder(run_dir)
    kept = load_run_config(run_dir)
    source = config_file(args.config) or run_dir.local / CONFIG_FILE
    config = resolve_paths(load_config(source, args.changes))
    checkpoint_paths.check_resumed_checkpoints(config, kept, run_dir.uri)
    return config, run_dir


def resolve_paths(config: Config) -> Config:
    """The same configuration with absolute paths: a trial's process has another working folder."""
    changes: dict[str, str] = {}
    may_be_paths = {
        "data.table": config.data.table,
        "model.weights": config.model.weights,
    }
    for key, name in may_be_paths.items():
        # These keys also take words ("demo", "pretrained") and URIs: only what exists is a path.
        if name and Path(name).exists():
            changes[key] = str(Path(name).resolve())
    if config.data.split_files:  # always a path, which may hold "{ratio}"
        changes["data.split_files"] = str(Path(config.data.split_files).resolve())
    checkpoint_dir = config.train.checkpoint_dir
    if checkpoint_dir:
        changes["train.checkpoint_dir"] = str(paths.absolute(checkpoint_dir))
    tracking_uri = config.search.callbacks.get("mlflow", {}).get("tracking_uri")
    if tracking_uri:
        changes["search.callbacks.mlflow.tracking_uri"] = _resolve_mlflow_uri(str(tracking_uri))
    return build_config(config.model_dump(mode="json"), changes)


def _resolve_mlflow_uri(uri: str) -> str:
    """An MLflow store in a file or folder with its absolute path; any other URI unchanged."""
    prefixes = ("sqlite:///", "file://", "file:", "")
    prefix = next(prefix for prefix in prefixes if uri.startswith(prefix))
    path = uri.removeprefix(prefix)
    if not path or path.startswith(("/", "databricks")) or paths.is_remote(path):
        return uri
    return prefix + str(Path(path).resolve())
