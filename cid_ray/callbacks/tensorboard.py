"""TensorBoard: RUN/tensorboard/NAME. A run that resumes adds a file to its folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from cid_ray.callbacks.experiment_logger import ExperimentLogger, LoggedRun, LoggedTrial

TAG_PREFIX = "ray/tune/"  # of the tags that Ray's callback writes


class TensorBoardLogger(ExperimentLogger):
    """Through `ray.tune.logger.TBXLoggerCallback`."""

    package = "tensorboardX"
    ray_callback = ("ray.tune.logger", "TBXLoggerCallback")

    def folder(self, name: str) -> Path:
        return self.out / "tensorboard" / name

    def logged_runs(self) -> dict[str, LoggedRun]:
        from tensorboardX.proto.event_pb2 import Event

        found: dict[str, LoggedRun] = {}
        for folder in sorted((self.out / "tensorboard").glob("*")):
            logged = LoggedRun()
            found[folder.name] = logged
            for record in read_tensorboard_records(folder):
                event = Event.FromString(record)
                tags = {value.tag for value in event.summary.value}
                logged.finished = logged.finished or "_hparams_/session_end_info" in tags
                own = (tag for tag in tags if tag.startswith(TAG_PREFIX))
                logged.add((tag.removeprefix(TAG_PREFIX), event.step) for tag in own)
        return found

    def continue_run(self, trial: LoggedTrial) -> None:
        """A file is named by its second; one of the same name would be overwritten, so wait for the
        next second.
        """
        files = Path(trial.local_path).glob("events.out.tfevents.*")
        newest = max((file.name.split(".")[3] for file in files), default="")
        while str(time.time())[:10] <= newest:
            time.sleep(0.05)


def read_tensorboard_records(folder: Path) -> Iterator[bytes]:
    """The records in a folder's event files, up to where a kill cut one short.

    Layout of each: length (8 bytes, little-endian), checksum (4), body, checksum (4).
    """
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        start = 0
        while start + 12 <= len(data):
            size = int.from_bytes(data[start : start + 8], "little")
            if start + 12 + size > len(data):
                break
            yield data[start + 12 : start + 12 + size]
            start += size + 16
