"""The same loop on N workers with Ray Train; Ray Data shards the pool over them.

`train_on_workers` is a generator like `run.loop.train`: at a rung the next `next()` lets all workers go on, closing the
generator stops them. So a pruning decision is taken before the next step. The workers are a crew (`run.crew`) that may
be kept for this process's next run.
"""

from __future__ import annotations

from collections.abc import Iterator

from cid_ray import places
from cid_ray.config import Config
from cid_ray.places import Name
from cid_ray.results.record import Row
from cid_ray.run import cluster, demand
from cid_ray.run.crew import Crew, Shape
from cid_ray.run.fleet import Resources

_crew: Crew | None = None  # of this process


def check_workers(config: Config) -> Resources:
    """What one worker asks for of the running cluster; InputError when the group can never be placed."""
    return demand.worker(config, cluster.fleet())


def train_on_workers(
    config: Config, root: Name, name: str = "train", test: bool = True, keep: bool = False
) -> Iterator[Row]:
    """Rows of one run on `scale.workers` workers; `keep` leaves them waiting for this process's next run.

    In Ray's dashboard they bear the name of the folder and, waiting crews too, of their first run in it.
    """
    cluster.start_ray()
    shape = Shape(config.scale.workers, check_workers(config))
    root = places.absolute(root)
    job = {"config": config.model_dump_json(), "root": str(root), "name": name, "test": test}
    try:
        yield from _crew_of(shape, root, name).rows(job)
    finally:
        if not keep:
            close_crew()


def close_crew() -> None:
    """Release this process's workers, if it keeps any."""
    global _crew
    crew, _crew = _crew, None
    if crew:
        crew.close()


def _crew_of(shape: Shape, root: Name, name: str) -> Crew:
    global _crew
    if _crew is None or not _crew.alive or _crew.shape != shape:
        close_crew()
        _crew = Crew(shape, places.join(root, "ray_train"), f"{str(root).rstrip('/').rpartition('/')[2]}-{name}")
    return _crew
