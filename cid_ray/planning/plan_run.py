"""`scale plan` from its options to its files: read, simulate, write records and page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cid_ray.config import Config, InputError, load_config
from cid_ray.config.validators import flatten
from cid_ray.planning.plan import Plan, parse_nodes
from cid_ray.planning.simulation import Overheads
from cid_ray.planning.trial_costs import TrialCosts, read_trial_costs
from cid_ray.resources.cluster_files import (
    check_with_ray,
    idle_timeout_s,
    read_cluster_document,
    read_cluster_file,
)
from cid_ray.resources.prices import Prices
from cid_ray.results.plan_page import PAGE_FILE, write_plan_page
from cid_ray.results.plan_text import describe_plan
from cid_ray.results.records import RecordReader, RecordWriter
from cid_ray.results.run_kind import refuse_ladder
from cid_ray.storage import paths
from cid_ray.storage.packaged import named_file
from cid_ray.storage.run_config import load_run_config
from cid_ray.storage.run_dir import RunDir, new_run_dir

# What decides how long a step takes. A search changes `loss`, and a plan may change `train.steps`.
TIMED_SECTIONS = ("data", "model", "optim", "distributed")
UNTIMED = ("data.table", "data.ratio", "data.draw", "data.split_seed", "data.split_files")


def run_plan(args: Any, overheads: dict[str, float]) -> Iterator[str]:
    """Simulate, write records and page, and yield the lines to print.

    Args:
        args: the options of `cli.plan_options`, checked.
        overheads: those of `Overheads` that were given.

    Raises:
        InputError: a file cannot be read, or what trials take is unknown.
    """
    nodes = parse_nodes(args.nodes)
    config = load_config(named_file(args.space, "search_spaces"), args.changes)
    cluster = named_file(args.cluster, "cluster")
    prices = Prices.read(args.prices) if args.prices else Prices.read_for(cluster)
    capacity = read_cluster_file(cluster, prices.resources())
    check_with_ray(cluster)
    if not capacity.has_known_cpus:
        raise InputError(f"{cluster}: {capacity.note}; a plan needs a file with `resources`")
    if not args.run:
        raise InputError(
            f"how long a trial of {args.space} takes is unknown; run it with few trials, such as "
            f"`python -m cid_ray.tune --config {args.space} --trials 4 --out runs/probe`, and add "
            "--run runs/probe (a run that was stopped early will do)"
        )
    costs, notes = read_run(args.run, config)
    notes.append(f"prices of {prices.date}, to be checked")
    out = plan_folder(args.out)
    idle_s = idle_timeout_s(read_cluster_document(cluster))
    times = replace(Overheads(idle_timeout_s=idle_s, checkpoint_every_s=between(config, costs)))
    plan = Plan(
        name=out.name,
        config=config,
        capacity=capacity,
        price=prices.price_of,
        costs=costs,
        times=replace(times, **overheads),
        speed=args.speed,
        simulations=args.simulations,
        worth=args.worth,
        notes=notes,
    )
    records = plan.records(nodes)
    try:
        writer = RecordWriter(out)
        for record in records:
            writer.append(record)
        write_plan_page(records, out)
    except OSError as error:
        raise paths.unwritable(f"--out {out}", error) from None
    yield from describe_plan(records)
    yield f"wrote {out / PAGE_FILE} and its records.jsonl"


def read_run(name: str, config: Config) -> tuple[TrialCosts, list[str]]:
    """The costs of a run's trials, and what is said about them."""
    with RunDir(name) as run_dir:
        run_dir.pull()
        refuse_ladder(run_dir)
        if not (run_dir.local / "records.jsonl").is_file():
            raise InputError(f"--run {name} is not a run folder: it has no records.jsonl")
        reader = RecordReader(run_dir.local)
        costs = read_trial_costs(reader.read(), config, name)
        notes = [f"warning: {reader.skipped}"] if reader.skipped else []
        if (run_dir.local / "config.yaml").is_file():
            notes += differences(load_run_config(run_dir), config)
    if costs.recorded_steps != config.train.steps:
        notes.append(
            f"recorded trials have {costs.recorded_steps} steps, those of the plan "
            f"{config.train.steps}: training is scaled, scoring is not"
        )
    if costs.test_s is None:
        notes.append(f"{name} scored nothing on test: tests of winners are left out of the plan")
    return costs, notes


def differences(run: Config, plan: Config) -> list[str]:
    """What differs between two configurations and decides how long a step takes."""
    ours, theirs = (
        {
            key: value
            for key, value in flatten(each.model_dump(mode="json")).items()
            if key.split(".")[0] in TIMED_SECTIONS and key not in UNTIMED
        }
        for each in (plan, run)
    )
    changed = [
        f"{key} {theirs.get(key)} -> {ours.get(key)}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if not changed:
        return []
    return [f"warning: durations are those of another configuration: {', '.join(changed)}"]


def between(config: Config, costs: TrialCosts) -> float:
    """Seconds between the checkpoints that `train.checkpoint_steps` or `_minutes` ask for."""
    train = config.train
    found = [float("inf")]
    if train.checkpoint_minutes:
        found.append(60 * train.checkpoint_minutes)
    seconds = [one["seconds"] for one in costs.by_method() if one["seconds"] is not None]
    if train.checkpoint_steps and seconds:
        found.append(max(seconds) / train.steps * train.checkpoint_steps)
    return min(found)


def plan_folder(out: str | None) -> Path:
    """The folder of a new plan.

    Raises:
        InputError: it is no folder of this machine, or holds something already.
    """
    run_dir = new_run_dir(out, "plan")
    if paths.is_remote(run_dir.uri):
        raise InputError(f"--out {out} must be a folder on this machine")
    folder = Path(run_dir.uri)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder} is not empty; choose another folder")
    return folder
