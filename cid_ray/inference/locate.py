"""Which checkpoint a user means: a file, a run folder, or a run and a ratio or trial in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cid_ray.config import InputError
from cid_ray.results.chosen_run import choose_run, split_choice
from cid_ray.results.records import Record, read_records
from cid_ray.results.run_kind import refuse_ladder
from cid_ray.results.summary import METHOD_NAMES, summarize
from cid_ray.storage import paths
from cid_ray.storage.checkpoint_paths import checkpoint_dir
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.remote_view import ReadOnlyRunDir
from cid_ray.storage.run_config import load_run_config


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint and what is known of it.

    Attributes:
        path: the file.
        final: its run's record of the end, with the scores that were printed; {} without a run.
        noise_floor: what the mean test scores of two methods must differ by at its label ratio to
            be more than noise, in points of mIoU of `search.metric`; None without repeats.
    """

    path: PathOrUri
    final: Record
    noise_floor: float | None = None

    def sha256(self) -> str:
        """Hash of the file, 64 hex digits."""
        with paths.open_read(self.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def describe(self) -> str:
        """For a person: "1_4-cid-003 (cid, 1/4 (48)) in runs/demo/..."."""
        if not self.final:
            return str(self.path)
        method = METHOD_NAMES[self.final["method"]]
        return f"{self.path} ({method}, {self.final['ratio_name']})"


def find_checkpoint(name: PathOrUri) -> CheckpointSource:
    """The checkpoint that a name means.

    Args:
        name: a checkpoint (`.../last.pt`); a run folder; or `RUN:RATIO`, `RUN:NAME` with a label
            ratio or the name of a trial. Of a search without a choice it is the best CID trial at
            the ratio with the most labels. Paths may be `s3://...`.

    Raises:
        InputError: there is no such checkpoint; the message says what there is.

    Example:
        >>> find_checkpoint("runs/demo:1/4").path
        PosixPath('runs/demo/checkpoints/1_4-cid-003/last.pt')
    """
    text = str(name)
    if text.endswith(".pt"):
        return CheckpointSource(name, {})
    folder, choice = split_choice(text)
    run_dir = ReadOnlyRunDir(folder)
    with run_dir:
        if not run_dir.exists:
            raise InputError(
                f"{text!r} is neither a checkpoint (.pt) nor a run folder; give RUN, RUN:RATIO, "
                "RUN:NAME or .../last.pt"
            )
        run_dir.pull()
        refuse_ladder(run_dir)
        config = load_run_config(run_dir)
        records = read_records(run_dir.local)
        summaries = summarize(records, config.search.metric)
        final = choose_run(records, summaries, choice, folder)
        path = paths.join(checkpoint_dir(config, run_dir.uri, final["run"]), "last.pt")
    if not paths.exists(path):
        raise InputError(
            f"{path} does not exist: a search keeps the checkpoints of the chosen trials only"
        )
    floors = {summary.ratio: summary.noise("test").floor for summary in summaries}
    return CheckpointSource(path, final, floors.get(final["ratio"]))
