"""Ladders that train: which trainings each of their counts needs.

A ladder changes one thing of a configuration, its count, and keeps the rest. Every count is trained
with several seeds. Repeat i has the same seed and label draw at every count and for every method,
so counts and methods differ by what is measured and not by luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cid_ray.config import Config, InputError, build_config

Changes = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training of a ladder.

    Attributes:
        name: of its run, which also names its checkpoints.
        config: its whole configuration.
    """

    name: str
    config: Config


@dataclass(frozen=True)
class Ladder:
    """What a ladder changes.

    Attributes:
        key: of `scale`, with the ladder's counts.
        what: the ladder in words.
        changed: the key of a training's configuration that is its count.
        change: a count and the configuration -> what is changed at this count.
        compares_methods: whether it trains all of `scale.methods`.
    """

    key: str
    what: str
    changed: str
    change: Callable[[Any, Config], Changes]
    compares_methods: bool = False

    def counted(self, config: Config) -> Changes:
        """The count of a training of this ladder, as hyperparameters of its records."""
        section, name = self.changed.split(".")
        return {self.changed: getattr(getattr(config, section), name)}


def _batch_changes(size: int, config: Config) -> Changes:
    """A batch of labeled images; the run sees as many images in all.

    Steps and the pool's batch are whole numbers, so the images differ by half a step at most.
    The learning rate follows the batch: for SGD in proportion (P. Goyal et al.,
    arXiv:1706.02677), for Adam and AdamW by its square root (S. Malladi et al., arXiv:2205.10287).
    """
    factor = size / config.data.batch_size
    rate = factor if config.optim.name == "sgd" else math.sqrt(factor)
    from_pool = max(1, round(config.data.batch_size_u * factor))
    per_step = size + (from_pool if config.uses_unlabeled else 0)
    return {
        "data.batch_size": size,
        "data.batch_size_u": from_pool,
        "train.steps": max(1, round(config.train.steps * config.images_per_step / per_step)),
        "optim.lr": config.optim.lr * rate,
    }


LADDERS = {
    "labels": Ladder(
        "ratios",
        "mIoU against labeled images",
        "data.ratio",
        lambda ratio, _: {"data.ratio": ratio},
        compares_methods=True,
    ),
    "pool": Ladder(
        "pool_fractions",
        "mIoU against unlabeled images",
        "data.pool_fraction",
        lambda part, _: {"data.pool_fraction": part},
        compares_methods=True,
    ),
    "batch": Ladder(
        "batch_sizes", "images to a mIoU against the batch size", "data.batch_size", _batch_changes
    ),
    "model": Ladder(
        "encoders",
        "mIoU against the size of the encoder",
        "model.encoder",
        lambda name, _: {"model.encoder": name},
    ),
}


def ladder_trainings(config: Config, name: str) -> list[Training]:
    """The trainings of a ladder, one repeat of all counts after the other.

    So a ladder that is stopped early has whole repeats.

    Args:
        config: what is trained; `scale` has counts, methods and repeats.
        name: key of LADDERS.

    Raises:
        InputError: the ladder has no counts, or a count makes no valid configuration.

    Example:
        >>> config = cid_ray.load_config(None, ["scale.ratios=[12,24,48]", "scale.repeats=2"])
        >>> [one.name for one in ladder_trainings(config, "labels")][:2]
        ['labels-12-cid-0', 'labels-24-cid-0']
    """
    return list(_trainings(config, name))


def _trainings(config: Config, name: str) -> Iterator[Training]:
    ladder = LADDERS[name]
    counts = getattr(config.scale, ladder.key)
    if not counts:
        raise InputError(f"scale.{ladder.key} is empty: the ladder {name!r} needs its counts")
    methods = config.scale.methods if ladder.compares_methods else ()
    tree = config.model_dump(mode="json")
    for repeat in range(config.scale.repeats):
        for method in methods or (config.method,):
            for count in counts:
                changes = {
                    "method": method,
                    "train.num_sample_images": 0,
                    "train.seed": config.train.seed + repeat,
                    "data.draw": config.data.draw + repeat,
                    **ladder.change(count, config),
                }
                own = build_config(tree, changes)
                if name == "pool" and not own.uses_unlabeled:
                    key = "scale.methods" if methods else "method"
                    raise InputError(
                        f"{key} is {method}, which uses no unlabeled image: the ladder 'pool' "
                        "needs another method, such as mean_teacher"
                    )
                # A name is a folder's, and "1/16" has a slash.
                label = str(count).replace("/", "_")
                yield Training(f"{name}-{label}-{method}-{repeat}", own)
