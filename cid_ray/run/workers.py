"""The same loop on N workers with Ray Train; Ray Data shards the pool over them.

`train_on_workers` is a generator like `run.loop.train`: at a rung the next `next()` lets all workers go on, closing the
generator stops them. So a pruning decision is taken before the next step. The workers are a crew (`run.crew`) that may
be kept for this process's next run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from cid_ray import places
from cid_ray.config import Config
from cid_ray.places import Name
from cid_ray.results.record import Row
from cid_ray.run import cluster, demand
from cid_ray.run.crew import Crew, CrewEnded, Shape
from cid_ray.run.fleet import Resources

CREWS = 3  # that may end, one after the other, without a step that was not reached before
_crew: Crew | None = None  # of this process
_sizes: dict[str, Resources] = {}  # of workers, by what was asked for


def check_workers(config: Config) -> Resources:
    """What one worker asks for of the running cluster; InputError when the group can never be placed.

    Asked once a process: a node that is lost between two runs is waited for.
    """
    asked = f"{config.scale.model_dump_json()} {config.train.device}"
    if asked not in _sizes:
        _sizes[asked] = demand.worker(config, cluster.fleet())
    return _sizes[asked]


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
    reached = ended = 0
    try:
        while True:
            try:
                with closing(_crew_of(shape, root, name).rows(job)) as rows:
                    for row in rows:
                        if row["step"] > reached:
                            reached, ended = row["step"], 0
                        yield row
                return
            except CrewEnded:
                ended += 1
                if ended >= CREWS:
                    raise
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
