"""The specification of one run, and where its checkpoints are. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cid_ray.config import Config
from cid_ray.storage import checkpoint_paths, paths
from cid_ray.storage.paths import PathOrUri

if TYPE_CHECKING:
    from cid_ray.data.cache import CachedReader


@dataclass
class RunSpec:
    """What to train, where to keep it, and which worker of how many this process is."""

    config: Config
    run_dir: PathOrUri  # the command's folder, which holds checkpoints/NAME and samples/NAME
    name: str = "train"
    rank: int = 0
    world_size: int = 1
    num_threads: int | None = None  # of torch; None: one per CPU that this process may use
    use_ray_data: bool = False  # Ray Data feeds the pool
    score_test: bool = True  # score the test split at the end
    nodes: frozenset[str] = frozenset()  # Ray's ids; before one is taken the run ends, `Preempted`
    reader: CachedReader | None = None  # decoded images kept from an earlier run of this process

    @property
    def last_checkpoint(self) -> PathOrUri:
        return self._checkpoint("last.pt")

    @property
    def best_checkpoint(self) -> PathOrUri:
        return self._checkpoint("best.pt")

    def _checkpoint(self, file: str) -> PathOrUri:
        folder = checkpoint_paths.checkpoint_dir(self.config, self.run_dir, self.name)
        return paths.join(folder, file)
