"""The rounds of a run: `self_training` has two, every other method has one.

A round trains a network from the start. Student, EMA teacher, optimizer and learning-rate schedule
begin again, and steps count from 0. So a round is a training with a configuration of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cid_ray.config.schema import Config
from cid_ray.config.search_schema import Method


@dataclass(frozen=True)
class Round:
    """Consecutive steps of a run.

    Attributes:
        start: the first step of the run that belongs to it.
        config: the run's configuration with the steps of this round. The first of two rounds is
            `supervised`, the second `self_training`.
    """

    start: int
    config: Config

    @property
    def stop(self) -> int:
        """The step of the run after the last one."""
        return self.start + self.config.train.steps


def rounds_of(config: Config) -> tuple[Round, ...]:
    """The rounds of a run, in order.

    Example:
        >>> config = load_config(None, ["method=self_training", "train.steps=100"])
        >>> [(part.start, part.stop, part.config.method) for part in rounds_of(config)]
        [(0, 50, 'supervised'), (50, 100, 'self_training')]
    """
    if config.method != "self_training":
        return (Round(0, config),)
    first = config.first_round_steps
    return (
        Round(0, _part_of(config, "supervised", first)),
        Round(first, _part_of(config, "self_training", config.train.steps - first)),
    )


def _part_of(config: Config, method: Method, steps: int) -> Config:
    train = config.train.model_copy(update={"steps": steps})
    return config.model_copy(update={"method": method, "train": train})


def round_at(rounds: Sequence[Round], step: int) -> Round:
    """The round that a step of the run belongs to; the last one at the end of the run."""
    return next(part for part in reversed(rounds) if part.start <= step)


def images_seen(config: Config, step: int) -> int:
    """Images of the first `step` steps of a run, labeled and unlabeled, over all workers."""
    return sum(
        (min(step, part.stop) - part.start) * part.config.images_per_step
        for part in rounds_of(config)
        if part.start < step
    )
