"""The results of a long benchmark: a line for each training, so that the same command continues."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from cid_ray.results.provenance import provenance

Line = dict[str, Any]


class StudyFile:
    """FOLDER/NAME.jsonl and, in FOLDER/NAME.json, what all its lines have in common."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.jsonl"
        self.facts = folder / f"{name}.json"

    def start(self, settings: dict[str, Any]) -> None:
        """Write the settings, versions and hardware.

        Raises:
            SystemExit: earlier lines have other settings, so they cannot be compared with new ones.
        """
        settings = json.loads(json.dumps(settings))
        if self.read():
            earlier = json.loads(self.facts.read_text())["config"]
            keys = sorted(
                key for key in {*earlier, *settings} if earlier.get(key) != settings.get(key)
            )
            if keys:
                raise SystemExit(
                    f"{self.path}: its lines have other values of {', '.join(keys)}; "
                    "set those of the .json file, or use another --name"
                )
        self.facts.parent.mkdir(parents=True, exist_ok=True)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        facts = {"config": settings, **provenance(), "gpu": gpu}
        self.facts.write_text(json.dumps(facts, indent=1) + "\n")

    def read(self) -> list[Line]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def append(self, lines: Iterable[Line]) -> None:
        """Add lines in one write: all of them or none."""
        with self.path.open("a") as stream:
            stream.write("".join(json.dumps(line) + "\n" for line in lines))
