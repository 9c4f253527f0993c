"""A search before it starts: everything that can be wrong, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cid_ray.config import Config, InputError, build_config
from cid_ray.resources import requests
from cid_ray.resources.capacity import ClusterCapacity, Resources
from cid_ray.search.analysis import warm_start_points
from cid_ray.search.checks import check_search
from cid_ray.search.controller import Search
from cid_ray.search.disk import DiskEstimate, check_disk
from cid_ray.search.space import Space
from cid_ray.search.trial_spec import search_studies, trial_config
from cid_ray.storage.paths import PathOrUri
from cid_ray.training.preflight import Preflight, check_data


@dataclass(frozen=True)
class SearchPlan:
    """A checked search.

    Attributes:
        config: its configuration.
        space: its parsed space.
        preflight: what the check of data and model found.
        disk: what it needs of the disk.
    """

    config: Config
    space: Space
    preflight: Preflight
    disk: DiskEstimate

    @property
    def ratio_names(self) -> dict[str, str]:
        """Ratio -> ratio with its label count, e.g. "1/16" -> "1/16 (23)"."""
        splits = self.preflight.splits
        return {ratio: splits[ratio].ratio_name for ratio in self.config.search.all_ratios}

    @property
    def job_metadata(self) -> dict[str, str]:
        """What Ray's list of jobs shows of the search."""
        return {
            "ratio": ", ".join(self.ratio_names.values()),
            "fingerprint": self.config.fingerprint(*self.preflight.content_hashes.values()),
        }


def plan_search(config: Config, run_dir: PathOrUri) -> SearchPlan:
    """Check space, sampler, pruner, data, model and the disk space of the run folder.

    Raises:
        InputError: what is wrong and what to do about it; nothing has been started.
    """
    space = check_search(config)
    preflight = check_data(config, search_variants(config, space))
    disk = check_disk(config, space, preflight.disk, run_dir)
    return SearchPlan(config, space, preflight, disk)


def search_variants(config: Config, space: Space) -> list[Config]:
    """A configuration of each ratio and method, whose trials keep the most on disk."""
    return [trial_config(config, key, largest_values(space)) for key in search_studies(config)]


def largest_values(space: Space) -> dict[str, Any]:
    """The fixed values of a space, and those of its choices whose trials keep the most on disk."""
    values = dict(space.fixed)
    by_key = {parameter.key: parameter.distribution for parameter in space.parameters}
    kinds: Any = by_key.get("loss.relation_kind")
    size: Any = by_key.get("loss.labeled_memory")
    if kinds is not None:
        # Only `cross` and `class` keep the features of labeled images.
        keep = (kind for kind in ("cross", "class") if kind in kinds.choices)
        values["loss.relation_kind"] = next(keep, kinds.choices[0])
    if size is not None:
        values["loss.labeled_memory"] = max(getattr(size, "choices", None) or (size.high,))
    return values


@dataclass(frozen=True)
class Placement:
    """Where trials run.

    Attributes:
        resources: what one trial's own process requests. A trial on several workers requests a
            fraction of a CPU itself; Ray Train places its workers.
        max_concurrent: trials that run concurrently.
        processes: training processes on one machine at the same time, at most.
        gpu_processes: training processes on one GPU at the same time, at most.
    """

    resources: Resources
    max_concurrent: int
    processes: int
    gpu_processes: int


def plan_placement(config: Config, capacity: ClusterCapacity) -> Placement:
    """What one trial requests, and how many run concurrently.

    Raises:
        InputError: not even one trial can ever be placed.
    """
    request, max_concurrent = requests.trial_request(config, capacity)
    resources = request.per_process
    processes = requests.processes_per_machine(request, max_concurrent, capacity)
    gpu_processes = min(processes, int(1 / resources.gpus + 1e-9)) if resources.gpus else 1
    if config.distributed.max_workers > 1:
        resources = Resources(requests.DRIVER_CPUS, 0)
    return Placement(resources, max_concurrent, processes, max(1, gpu_processes))


def describe_search(search: Search, plan: SearchPlan, placement: Placement) -> list[str]:
    """What is said before the first trial, line by line."""
    config = search.config.search
    store = search.store
    per_method = {
        key.method: store.n_trials(key) for key in store.search_keys() if key.ratio in config.ratios
    }
    counts = ", ".join(f"{method} {count}" for method, count in per_method.items())
    lines = [
        f"run folder {search.run_dir}; stop it any time, resume with: "
        f"python -m cid_ray.tune --resume {search.run_dir}",
        f"ratios {', '.join(plan.ratio_names[r] for r in config.ratios)}; trials at each: {counts}",
    ]
    curve = [plan.ratio_names[ratio] for ratio in config.all_ratios if ratio not in config.ratios]
    if curve:
        lines.append(f"supervised only at {', '.join(curve)}, for the label curve")
    if store.shared:
        lines.append(
            f"studies {store.name!r} in {search.config.study.storage}, shared with every search "
            "that names them"
        )
    untuned = [m for m in config.baselines if config.tries_per_baseline > 1 and per_method[m] == 1]
    if untuned:
        lines.append(
            "one trial each, because search.space has no hyperparameter that they use (such as "
            f"optim.lr): {', '.join(untuned)}"
        )
    if config.repeats.n:
        lines.append(
            f"repeats: the baselines and the best {config.repeats.top} CID trials, "
            f"{config.repeats.n} new seeds each"
        )
    lines.append(
        f"sampler {config.sampler.name}, pruner {config.pruner.name}; "
        f"up to {placement.max_concurrent} concurrent trials, {placement.resources} each"
    )
    lines += [*plan.preflight.messages, str(plan.disk)]
    lines += [f"warning: {note}" for note in store.notes]
    interrupted = len(search.queue.resume_queue)
    if search.finished_before or interrupted:
        lines.append(
            f"{search.finished_before} of {search.total} trials have finished, {interrupted} "
            "interrupted ones resume"
        )
    return lines


def change_search(
    config: Config,
    extend: int | None = None,
    warm_start: PathOrUri | None = None,
    resumed: bool = False,
) -> tuple[Config, str]:
    """The configuration with more trials, or with points of an earlier run.

    Args:
        config: of the search.
        extend: CID trials per ratio to add; only to a resumed search.
        warm_start: an earlier run, whose best hyperparameters are tried first; only by a new one.
        resumed: whether the search is resumed.

    Returns:
        The configuration, and a line that says which points were taken.

    Raises:
        InputError: an option does not fit, or the earlier run has no trial that fits the space.
    """
    tree = config.model_dump(mode="json")
    if extend is not None:
        if not resumed or extend < 1:
            raise InputError(
                f"--extend {extend} adds that many trials to the search of --resume DIR; give both"
            )
        return build_config(tree, {"search.trials": config.search.trials + extend}), ""
    if not warm_start:
        return config, ""
    if resumed:
        raise InputError("--warm-start starts a new run: leave out --resume or --warm-start")
    points, message = warm_start_points(warm_start, check_search(config), config.search.metric)
    points = [*points, *config.search.points_to_evaluate]
    return build_config(tree, {"search.points_to_evaluate": points}), message
