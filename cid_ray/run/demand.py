"""What a configuration asks of a cluster, for a trial or its workers; an error when that can never be placed."""

from __future__ import annotations

from cid_ray.config import Config, InputError
from cid_ray.run.fleet import SLACK, Fleet, Group, Resources

DRIVER_CPUS = 0.01  # of a trial that only leads its workers


def trials(config: Config, fleet: Fleet) -> tuple[Group, int]:
    """What one trial asks for, and how many run at once; InputError when not even one can ever be placed."""
    search = config.search
    if config.scale.most > 1:
        each = worker(config, fleet)
        group = Group(each, config.scale.most, config.scale.data_cpus + DRIVER_CPUS)
        fit = max(1, fleet.at_once(group))  # an elastic group starts with the workers that fit
    else:
        group = Group(Resources(search.cpus_per_trial, _gpus(config, search.gpus_per_trial, fleet)))
        remedy = "Lower search.cpus_per_trial or search.gpus_per_trial, or add nodes."
        fit = _placeable(fleet, group, "a trial", remedy)
    return group, min(fit, search.concurrency or fit)


def worker(config: Config, fleet: Fleet) -> Resources:
    """What one of several workers asks for; InputError when the fewest that are allowed can never be placed."""
    scale = config.scale
    gpus = _gpus(config, scale.gpus_per_worker, fleet)
    each = Resources(scale.cpus_per_worker or _cpu_share(config, fleet, gpus), gpus)
    remedy = "Lower scale.workers, scale.cpus_per_worker or scale.data_cpus, or add nodes."
    _placeable(fleet, Group(each, scale.least, scale.data_cpus), f"scale.workers={scale.workers}", remedy)
    return each


def _gpus(config: Config, asked: float | None, fleet: Fleet) -> float:
    """As asked for; else 1 where there are any and they are not refused."""
    return float(fleet.has_gpus and config.train.device != "cpu") if asked is None else asked


def _cpu_share(config: Config, fleet: Fleet, gpus: float) -> float:
    """The most CPUs that each worker can have, Ray Data's kept free: whole ones, or tenths of one.

    How many workers of an elastic group fit Ray takes from the nodes' sizes, whoever else is on them. After a loss it
    would wait for ever for a node that it takes for empty, so such workers fill none where that can be had.
    """
    scale, spare = config.scale, config.scale.data_cpus + 0.1
    whole = [float(cpus) for cpus in range(int(fleet.cpus / scale.most), 0, -1)]
    sizes = [Resources(cpus, gpus) for cpus in (*whole, *(tenths / 10 for tenths in range(9, 0, -1)))]
    fitting = [each for each in sizes if fleet.at_once(Group(each, scale.most, spare))]
    if scale.least < scale.most:
        roomy = [each for each in fitting if all(_left(kind.each, each, scale.most) >= spare for kind in fleet.types)]
        fitting = roomy or fitting
    return fitting[0].cpus if fitting else sizes[-1].cpus


def _left(node: Resources, each: Resources, most: int) -> float:
    """CPUs of a node that holds as many workers as it can."""
    return node.cpus - min(most, each.times_in(node)) * each.cpus + SLACK


def _placeable(fleet: Fleet, group: Group, what: str, remedy: str) -> int:
    """How many such groups run at once; InputError when none ever will."""
    fit = fleet.at_once(group)
    if not fit:
        raise InputError(f"{what} asks for {group}; this can never be placed: {fleet.name} has {fleet}. {remedy}")
    return fit
