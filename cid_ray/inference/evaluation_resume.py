"""What a stopped evaluation has computed, so that the same command continues.

`partial.json` has the sums over the images that are done, and what they are sums of. JSON keeps
every bit of a float, so a continued evaluation equals one that was never stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cid_ray.inference.evaluation import Evaluation
from cid_ray.storage import json_file, paths
from cid_ray.storage.json_file import MEGABYTE

PARTIAL_FILE = "partial.json"
MAX_BYTES = 1000 * MEGABYTE  # a million images
SAVE_INTERVAL_S = 30.0


class PartialEvaluation:
    """The sums of an evaluation in a folder.

    Args:
        evaluation: that has not run yet. It gets the sums of the folder, if they are its own.
        folder: of the results.

    Attributes:
        message: what a user should know of the file that was found; "" if there is none.
    """

    def __init__(self, evaluation: Evaluation, folder: Path):
        self.evaluation = evaluation
        self._file = folder / PARTIAL_FILE
        self._saved_at = time.monotonic()
        self.message = self._restore()

    def _restore(self) -> str:
        evaluation = self.evaluation
        if not self._file.exists():
            return ""
        try:
            stored = json_file.parse_json(json_file.read_limited(self._file, MAX_BYTES))
            if stored["settings"] != evaluation.settings:
                return f"{self._file} is of another evaluation, which is replaced"
            states = stored["networks"]
            for network, state in zip(evaluation.networks, states, strict=True):
                network.scores.load_state_dict(state)
            evaluation.done, evaluation.seconds = stored["done"], stored["seconds"]
        except (ValueError, TypeError, LookupError) as error:
            for network in evaluation.networks:
                network.scores.reset()
            return f"warning: {self._file} is damaged ({error}): all images are scored again"
        return f"{evaluation.done} of {len(evaluation.rows)} images are there already"

    def run(self, is_stopped: Callable[[], bool]) -> Iterator[int]:
        """Score the images that are left, and save now and then, and when it is stopped.

        Args:
            is_stopped: asked after each image.
        """
        for done in self.evaluation.run():
            yield done
            if is_stopped() or time.monotonic() - self._saved_at > SAVE_INTERVAL_S:
                self.save()
            if is_stopped():
                return

    def save(self) -> None:
        """Write what is done."""
        self._saved_at = time.monotonic()
        evaluation = self.evaluation
        content: dict[str, Any] = {
            "settings": evaluation.settings,
            "done": evaluation.done,
            "seconds": evaluation.seconds,
            "networks": [network.scores.state_dict() for network in evaluation.networks],
        }
        paths.write_text(self._file, json.dumps(content, allow_nan=False))

    def remove(self) -> None:
        """The evaluation is complete."""
        self._file.unlink(missing_ok=True)
