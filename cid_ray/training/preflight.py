"""Errors of data and model, found before Ray starts and before the first training step.

`train` checks its one configuration; `tune` checks one for each ratio and method of its search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cid_ray.config import Config, InputError, describe_changes, rounds_of
from cid_ray.core.model import Segmenter, check_names
from cid_ray.data.cache import describe_uncached
from cid_ray.data.sources import open_table
from cid_ray.data.splits import Split, make_split
from cid_ray.data.table import Table
from cid_ray.resources.container import describe_small_quota
from cid_ray.results.records import of_event, read_records
from cid_ray.storage import checkpoint_paths
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir
from cid_ray.training.builders import (
    memory_bytes,
    run_identity,
    set_encoder_levels,
    weights_hash,
)
from cid_ray.training.device import Device
from cid_ray.training.footprint import DiskBytes, disk_bytes
from cid_ray.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Preflight:
    """What the checks found out.

    Attributes:
        table: the data table.
        splits: label ratio -> its split, whose `ratio_name` is such as "1/16 (23)".
        content_hashes: what it is -> its hash. Data and weights may change without a change of the
            configuration.
        messages: what the user should know and is no error.
        disk: what one of its runs writes.
    """

    table: Table
    splits: dict[str, Split]
    content_hashes: dict[str, str]
    messages: list[str]
    disk: DiskBytes

    def fingerprint(self, config: Config) -> str:
        """The hash of everything that changes the results of one of the checked configurations."""
        split = self.splits[config.data.ratio]
        return run_identity(config, self.table, split)["fingerprint"]


def check_data(config: Config, variants: Iterable[Config] | None = None) -> Preflight:
    """Open the table, split it for every variant, and build the model once.

    Args:
        config: names table, cache and model.
        variants: the configurations whose splits are checked, such as one for each ratio and method
            of a search. They differ from `config` in neither table nor model. None: `config` alone.

    Raises:
        InputError: table, split, model or weights cannot be used; the message names the remedy.
    """
    check_names(config.model)
    table = open_table(config.data.table)
    splits: dict[str, Split] = {}
    variants = [config] if variants is None else list(variants)
    for variant in variants:
        split = make_split(table, variant.data)
        check_split(variant, table, split)
        splits[variant.data.ratio] = split
    net = Segmenter(config.model, table.num_classes, table.band_stats)
    make_optimizer(config, net)  # its errors come before the run
    remembered = 0
    for variant in variants:
        set_encoder_levels(net, variant)
        remembered = max(remembered, memory_bytes(net, variant))
    disk = disk_bytes(config, net, table, remembered)
    content_hashes = {
        "the data set": table.fingerprint,
        "the weights file": weights_hash(config) or config.model.weights,
    }
    uncached = describe_uncached(table, config.data.image_size, config.data.cache_mb)
    mixed = describe_mixed_groups(config, table, splits)
    lines = (uncached, describe_small_quota(), mixed, *describe_frozen_encoder(config))
    messages = [line for line in lines if line]
    return Preflight(table, splits, content_hashes, messages, disk)


def describe_mixed_groups(config: Config, table: Table, splits: dict[str, Split]) -> str:
    """A warning where a label curve would change its domain on the way; "" where it does not."""
    if config.data.label_from != "one_group" or len(splits) < 2:
        return ""
    groups = {
        split.ratio_name: len(set(table.groups(split.labeled).tolist()))
        for split in sorted(splits.values(), key=lambda split: len(split.labeled))
    }
    least = min(groups.values())
    mixed = [f"{name} from {number}" for name, number in groups.items() if number > least]
    if not mixed:
        return ""
    return (
        f"data.label_from=one_group: {next(iter(groups))} is drawn from {least} of the table's "
        f"groups, {', '.join(mixed)}: their scores differ by the groups too; name fewer labels"
    )


def describe_frozen_encoder(config: Config) -> Iterator[str]:
    """Warnings about what a frozen encoder makes of other keys."""
    if config.model.freeze == "none":
        return
    if config.model.weights == "none":
        yield (
            "model.freeze=encoder with model.weights=none: the encoder keeps its random weights; "
            "set model.weights=pretrained or to a file"
        )
    if config.optim.layer_decay < 1:
        yield "optim.layer_decay has no effect: model.freeze=encoder trains no layer of the encoder"


def check_split(config: Config, table: Table, split: Split) -> None:
    """Raise InputError for what only shows when a configuration meets its data."""
    in_channels = config.model.in_channels
    if in_channels not in (None, table.num_channels):
        raise InputError(
            f"model.in_channels is {in_channels}, the images of the table {table.folder} have "
            f"{table.num_channels} channels: leave model.in_channels out, which takes the table's, "
            "or choose the channels at import with --bands"
        )
    if config.uses_unlabeled and not len(split.pool):
        raise InputError(
            f"method {config.method} needs unlabeled images, the pool of {split.ratio_name} is "
            "empty: lower data.ratio, import an --unlabeled folder, or use method=supervised"
        )
    if not len(split.val):
        raise InputError(
            f"the table {table.folder} has no val image with a mask: prepare it with --val-images "
            "and --val-masks, or set data.val_from_budget=0.2: a fifth of the labels is then val"
        )
    if config.data.batch_size < 2 and not rounds_of(config)[0].config.uses_unlabeled:
        raise InputError("data.batch_size must be at least 2: batch norm needs more than one image")


def check_workers(config: Config, preflight: Preflight, run: str, verbose: bool) -> list[str]:
    """Start Ray and check that all workers can be placed. Does nothing for a single process.

    Args:
        config: requests `distributed.num_workers`.
        preflight: what `check_data` found out.
        run: the run's name in Ray's list of jobs.
        verbose: show what Ray's processes print.

    Returns:
        What the user should know.

    Raises:
        InputError: the workers can never be placed.
    """
    if config.distributed.max_workers == 1:
        return []
    from cid_ray.resources.ray_session import start_ray
    from cid_ray.training.workers import worker_resources

    metadata = {
        "run": run,
        "ratio": preflight.splits[config.data.ratio].ratio_name,
        "fingerprint": preflight.fingerprint(config),
    }
    start_ray(verbose, metadata)
    free_cpus = f"{config.distributed.data_cpus:g} CPU stay free for Ray Data"
    return [f"each worker gets {worker_resources(config)}; {free_cpus}"]


def describe_run(config: Config, preflight: Preflight) -> list[str]:
    """Method, data, device and fingerprint of one run, for its log."""
    split = preflight.splits[config.data.ratio]
    table = preflight.table
    channels = "" if table.num_channels == 3 else f", {table.num_channels} channels"
    return [
        f"{config.method} at {split.ratio_name}, pool {len(split.pool)}, split {split.split_id}; "
        f"{table.num_classes} classes{channels}",
        f"device: {Device.choose(config.train)}; {config.distributed} worker(s); "
        f"fingerprint {preflight.fingerprint(config)}",
    ]


def check_resumed_config(config: Config, saved: Config, run_dir: PathOrUri) -> None:
    """Raise InputError when values that change results differ from the saved run's."""
    changed = describe_changes(saved.result_affecting_values(), config.result_affecting_values())
    if changed:
        raise InputError(
            f"--resume {run_dir} continues the same run, but {changed}; "
            "choose another --out for that"
        )


def check_resumed_records(config: Config, run_dir: RunDir) -> None:
    """Raise InputError when the records go further than any checkpoint: it was removed."""
    rungs = of_event(read_records(run_dir.local), "rung")
    if not rungs:
        return
    newest = rungs[-1]
    if not checkpoint_paths.has_checkpoint(config, run_dir.uri, newest["run"]):
        folder = checkpoint_paths.checkpoint_dir(config, run_dir.uri, newest["run"])
        raise InputError(
            f"--resume {run_dir}: its records go to step {newest['step']}, but there is no "
            f"checkpoint in {folder}; put it back, or train from the start with another --out"
        )
