"""`train`: one run as an iterator of records, in this process or on Ray Train's workers.

The one place that chooses between the two. The commands `train` and `tune` and the Python API all
start here. Importing it loads neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Iterator

from cid_ray.config import Config
from cid_ray.results.records import Record
from cid_ray.storage.paths import PathOrUri


def train(
    config: Config,
    run_dir: PathOrUri,
    name: str = "train",
    *,
    score_test: bool = True,
    cpus: float | None = None,
    reuse_process: bool = False,
) -> Iterator[Record]:
    """Train one configuration and yield its records.

    With `distributed.num_workers=1` training runs in this process and needs no Ray. With more
    workers it runs on Ray Train's workers: on the cluster of RAY_ADDRESS, on a running local one,
    or on one that is started. Batch sizes and learning rate are global, so the number of workers
    does not change them.

    Training happens while the iterator is advanced. Closing the iterator stops the run at its
    current step, or with several workers at their next rung. The same call then resumes it from its
    last checkpoint.

    Args:
        config: what to train, from `cid_ray.load_config`.
        run_dir: a folder, or s3://bucket/path. Checkpoints go to `checkpoints/NAME` below it or
            below `train.checkpoint_dir`, predictions on a few images to `samples/NAME`. Several
            workers need a folder that all nodes share. Records are not written here; see
            `cid_ray.RecordWriter`.
        name: the run's name within the folder.
        score_test: score the test split at the end. A search leaves it out for all runs but the
            winners.
        cpus: CPUs of a single-process run, which uses max(1, int(cpus)) threads. None: one thread
            for each CPU that this process may use. Workers have `distributed.cpus_per_worker`
            instead.
        reuse_process: this process trains one run after another. It pins itself to `cpus` CPUs, and
            keeps the table, decoded images and workers for the next run. The run ends before Ray's
            node of the process is taken.

    Yields:
        Records in the order of training. Each is a dict with `event`, and with `run`, `ratio`,
        `method`, `step` (optimizer steps), `images_seen` (over all workers) and `seconds`:

        - "progress": every `train.progress_s` (2), `losses` and `images_per_s`.
        - "rung": at each fraction of `train.rungs`, with val scores in percent such as
          `val/miou_teacher`, after its checkpoint is written. A resumed run yields its last rung
          again.
        - "final": the last record, with test scores of the last step (`test/...`) and of the step
          that was best on val (`best/...`).

    Raises:
        InputError: configuration, data or checkpoint do not fit together, or the workers can never
            be placed.
        FloatingPointError: a loss or gradient is NaN or inf and `train.on_nan` does not skip it.
        WorkersLost: workers were lost several times without reaching a new step.
        Preempted: with `reuse_process`, the node of this process will be taken; the checkpoint is
            written.
        OSError: a checkpoint cannot be written.

    Example:
        >>> import cid_ray
        >>> config = cid_ray.load_config(None, ["data.ratio=1/8", "train.steps=300"])
        >>> for record in cid_ray.train(config, "runs/mine"):
        ...     if record["event"] == "rung":
        ...         print(record["step"], record["val/miou_teacher"])
    """
    if config.distributed.max_workers > 1:
        from cid_ray.training.workers import train_on_workers

        yield from train_on_workers(
            config, run_dir, name, score_test=score_test, keep_workers=reuse_process
        )
        return

    from cid_ray.data.cache import cached_reader
    from cid_ray.resources.cpu_affinity import pin_process
    from cid_ray.training.loop import train as train_in_process
    from cid_ray.training.preemption import own_node
    from cid_ray.training.run_spec import RunSpec

    spec = RunSpec(config, run_dir, name, score_test=score_test)
    if cpus is not None:
        spec.num_threads = max(1, int(cpus))
        if reuse_process:
            pin_process(int(cpus))  # a fraction of a CPU is not pinned
    if reuse_process:
        spec.reader = cached_reader(config.data)
        spec.nodes = own_node()
    yield from train_in_process(spec)
