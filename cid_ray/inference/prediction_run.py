"""A folder of predictions: what it was made with, what is in it, and what is still to do.

settings.json       checkpoint, options, classes: the same command continues, another is refused
predictions.jsonl   a record of each image: files, fractions of the classes, confidence
classes.txt         the class names in the order of the ids, for `prepare folder --classes`
masks/ overlays/ confidence/ probabilities/
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cid_ray.config import InputError
from cid_ray.inference.batch import PredictionRecord
from cid_ray.inference.inputs import InputImage
from cid_ray.inference.predictor import Predictor
from cid_ray.results.provenance import provenance
from cid_ray.results.records import end_line
from cid_ray.storage import json_file, paths
from cid_ray.storage.json_file import MEGABYTE
from cid_ray.storage.paths import PathOrUri
from cid_ray.storage.run_dir import RunDir

SETTINGS_FILE = "settings.json"
RECORDS_FILE = "predictions.jsonl"
CLASSES_FILE = "classes.txt"
PUSH_INTERVAL_S = 10.0  # of the records, to an object store


class PredictionRun:
    """An output folder, locked while it is open.

    Attributes:
        run_dir: the folder.
        done: names of the images that it has, and of the files that could not be read.
    """

    def __init__(self, out: PathOrUri, settings: dict[str, Any], records_file: str = RECORDS_FILE):
        """
        Args:
            out: the folder, local or `s3://`. It may hold predictions with the same settings.
            settings: everything that decides the predictions, as JSON values.
            records_file: the name of the file of records.

        Raises:
            InputError: it holds something else, or another process writes into it.
        """
        self.run_dir = RunDir(out)
        self._settings = settings
        self._records_file = records_file
        self.done: dict[str, PredictionRecord] = {}
        self._pushed_at = time.monotonic()

    def __enter__(self) -> PredictionRun:
        self.run_dir.pull()
        self._check()
        self.run_dir.lock()
        self.done = {record["name"]: record for record in self._read_records()}
        end_line(self.run_dir.local / self._records_file)
        with paths.atomic_write(self.run_dir.local / SETTINGS_FILE) as file:
            content = {**self._settings, "provenance": provenance()}
            file.write(json.dumps(content, indent=1).encode() + b"\n")
        names = "".join(f"{name}\n" for name in self._settings["classes"])
        paths.write_text(self.run_dir.local / CLASSES_FILE, names)
        self.run_dir.push()
        return self

    def __exit__(self, *error: object) -> None:
        self.run_dir.__exit__(*error)

    def _check(self) -> None:
        folder = self.run_dir
        file = folder.local / SETTINGS_FILE
        if not file.exists():
            others = [name for name in paths.list_files(folder.uri) if not name.startswith(".")]
            if others:
                raise InputError(
                    f"--out {folder} holds other files ({others[0]}); choose another folder"
                )
            return
        try:
            stored = json_file.parse_json(json_file.read_limited(file, MEGABYTE))
        except ValueError as error:
            raise InputError(f"{file} is damaged ({error}); choose another --out") from None
        for key, value in json.loads(json.dumps(self._settings)).items():
            if not isinstance(stored, dict) or stored.get(key) != value:
                was = stored.get(key) if isinstance(stored, dict) else None
                raise InputError(
                    f"--out {folder} holds predictions with {key} {was!r}, now it is {value!r}; "
                    "choose another folder"
                )

    def _read_records(self) -> Iterator[PredictionRecord]:
        """The records of the folder. A line that a kill cut short is left out."""
        file = self.run_dir.local / self._records_file
        if not file.exists():
            return
        with file.open("rb") as lines:
            for line in lines:
                try:
                    record = json_file.parse_json(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and {"event", "name", "source"} <= record.keys():
                    yield record

    def todo(self, items: Sequence[InputImage]) -> list[InputImage]:
        """The images that the folder does not have yet. Unreadable ones are tried again."""
        there = set(paths.list_files(self.run_dir.uri)) if self.done else set()
        return [item for item in items if not self._has(item.name, there)]

    def _has(self, name: str, there: set[str]) -> bool:
        record = self.done.get(name, {})
        if record.get("event") != "prediction":
            return False
        files = record.get("files")
        return isinstance(files, dict) and all(file in there for file in files.values())

    def append(self, record: PredictionRecord) -> None:
        """Add the record of an image whose files are complete."""
        with open(self.run_dir.local / self._records_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.done[record["name"]] = record
        if time.monotonic() - self._pushed_at > PUSH_INTERVAL_S:
            self._pushed_at = time.monotonic()
            self.run_dir.push()


def settings_of(predictor: Predictor, options: dict[str, Any]) -> dict[str, Any]:
    """What decides the predictions: the network and the options of the command."""
    return {
        "checkpoint": str(predictor.checkpoint.path),
        "checkpoint_sha256": predictor.checkpoint.sha256(),
        "network": predictor.network,
        "step": predictor.step,
        "classes": predictor.classes,
        "colors": predictor.colors,
        **options,
    }


def describe_run(records: Iterable[PredictionRecord], classes: Sequence[str]) -> list[str]:
    """Lines for a person: counts, the classes' fractions of all pixels, what is missing."""
    records = list(records)
    predicted = [record for record in records if record["event"] == "prediction"]
    unreadable = [record for record in records if record["event"] == "unreadable"]
    lines = [f"{len(predicted)} images predicted, {len(unreadable)} could not be read"]
    for record in unreadable[:10]:
        lines.append(f"unreadable: {record['reason']}")
    pixels = [record["height"] * record["width"] for record in predicted]
    if predicted:
        total = sum(pixels)
        shown = []
        for name in classes:
            count = sum(
                record["fractions"].get(name, 0) * area
                for record, area in zip(predicted, pixels, strict=True)
            )
            shown.append(f"{name} {count / total:.1%}")
        confidence = sum(
            record["confidence"] * area for record, area in zip(predicted, pixels, strict=True)
        )
        lines.append(f"pixels: {', '.join(shown)}; mean confidence {confidence / total:.3f}")
    for kind in sorted({kind for record in predicted for kind in record.get("left_out", ())}):
        large = [record["name"] for record in predicted if kind in record.get("left_out", ())]
        lines.append(f"{len(large)} images are too large for {kind}, such as {large[0]}")
    return lines
