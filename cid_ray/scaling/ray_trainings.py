"""Trainings as Ray tasks: as many concurrently as the cluster has room for, each with its records.

A task streams its records while it trains. A task whose process dies is started again and resumes
from its last checkpoint, up to `search.retries` times; then its training counts as failed, and the
others continue. A node that is taken with notice does not count (`search.max_preemption_failures`).
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from cid_ray.config import Config, error_summary
from cid_ray.results.ladder_records import common_fields
from cid_ray.results.records import Record
from cid_ray.scaling.ladders import Training
from cid_ray.search.plan import Placement
from cid_ray.search.trial_states import PREEMPTED
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri
from cid_ray.training.preemption import Preempted

WAIT_S = 1.0  # for a record; Ctrl-C is noticed between two of them


def run_trainings(
    trainings: Iterable[Training],
    run_dir: PathOrUri,
    placement: Placement,
    score_test: bool = True,
) -> Iterator[Record]:
    """Train all; yield the records of all of them as they come.

    Closing the iterator stops the trainings that run.

    Args:
        trainings: what to train, started in this order.
        run_dir: a folder that all nodes share, or s3://bucket/path.
        placement: what one training requests, and how many run concurrently.
        score_test: score the test split at the end of each.

    Yields:
        What `cid_ray.train` yields, and "retry" and "failed" records.
    """
    import ray

    waiting = deque(trainings)
    running: dict[Any, Training] = {}  # stream of records -> its training
    ends: dict[str, list[Exception]] = {}  # run -> the errors that ended its processes
    try:
        while waiting or running:
            while waiting and len(running) < placement.max_concurrent:
                training = waiting.popleft()
                running[_start(training, run_dir, placement, score_test)] = training
            ready, _ = ray.wait(list(running), num_returns=1, timeout=WAIT_S)
            for stream in ready:
                training = running[stream]
                try:
                    yield ray.get(next(stream))
                except StopIteration:
                    del running[stream]
                except ray.exceptions.RayError as error:
                    del running[stream]
                    deaths = ends.setdefault(training.name, [])
                    deaths.append(error)
                    record = end_record(training, deaths)
                    if record["event"] == "retry":
                        waiting.appendleft(training)
                    yield record
    finally:
        for stream in running:
            ray.cancel(stream, force=True)


def _start(training: Training, run_dir: PathOrUri, placement: Placement, score_test: bool) -> Any:
    import ray

    resources = placement.resources
    task = ray.remote(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        num_returns="streaming",
        max_retries=0,  # a second attempt has other records, so Ray cannot replace the first by it
    )(stream_records)
    return task.remote(
        training.config.model_dump_json(),
        str(paths.absolute(run_dir)),
        training.name,
        resources.cpus,
        score_test,
    )


def stream_records(
    config: str, run_dir: str, name: str, cpus: float, score_test: bool
) -> Iterator[Record]:
    """What a task runs: one training. An error becomes a "failed" record."""
    from cid_ray.training.launch import train

    parsed = Config.model_validate_json(config)
    # Workers that a process keeps would hold their CPUs while Ray gives it no other training.
    reuse = parsed.distributed.max_workers == 1
    try:
        options = {"cpus": cpus, "reuse_process": reuse, "score_test": score_test}
        yield from train(parsed, run_dir, name, **options)  # type: ignore[arg-type]
    except Preempted:
        raise  # the training continues elsewhere
    except Exception as error:
        reason = error_summary(error, with_type=True)
        yield {**failed_record(parsed, name, reason), "traceback": traceback.format_exc()[-4000:]}


def failed_record(config: Config, name: str, reason: str) -> Record:
    """The record of a training that ended without its last step."""
    return {
        **common_fields(name, config.data.ratio, config.method),
        "event": "failed",
        "reason": reason,
        "traceback": "",
        "params": {},
    }


def end_record(training: Training, deaths: list[Exception]) -> Record:
    """Of a training whose process has ended: it is tried again, or it has failed."""
    config = training.config
    by_notice = [error for error in deaths if was_preempted(error)]
    counted = len(deaths) - len(by_notice)
    if was_preempted(deaths[-1]):
        reason = f"{PREEMPTED}: {getattr(deaths[-1], 'cause', '')}"
    else:
        reason = f"its process died: {str(deaths[-1]).splitlines()[0][:200]}"
    too_often = counted > config.search.retries
    if too_often or len(by_notice) > config.search.max_preemption_failures:
        return failed_record(config, training.name, f"{reason} ({len(deaths)} times)")
    return {
        **common_fields(training.name, config.data.ratio, config.method),
        "event": "retry",
        "attempt": len(deaths),
        "reason": reason,
        "timestamp": time.time(),
    }


def was_preempted(error: Exception) -> bool:
    """Whether a process ended itself because its node will be taken."""
    return isinstance(getattr(error, "cause", None), Preempted)
