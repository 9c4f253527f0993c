"""What a trial's process runs: the training loop, from a trial's payload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cid_ray.config import Config
from cid_ray.results.records import Record
from cid_ray.training.launch import train

# (run folder, CPUs, a trial's payload) -> its records
TrialFn = Callable[[str, float, dict[str, Any]], Iterator[Record]]


def run_trial(
    run_dir: str, cpus: float, payload: dict[str, Any], reuse_process: bool = False
) -> Iterator[Record]:
    """The records of one trial.

    Args:
        run_dir: the search's run folder.
        cpus: CPUs of this process.
        payload: `TrialSpec.payload`.
        reuse_process: this process runs one trial after another; it keeps its CPUs, decoded images
            and workers.
    """
    yield from train(
        Config.model_validate_json(payload["config"]),
        run_dir,
        payload["name"],
        score_test=payload["score_test"],
        cpus=cpus,
        reuse_process=reuse_process,
    )
