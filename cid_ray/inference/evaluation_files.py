"""The folder of an evaluation: `evaluation.json`, `images.csv` and `evaluation.html`."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

from cid_ray.config import InputError, error_summary
from cid_ray.results.evaluation_page import write_evaluation_page
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri

JSON_FILE = "evaluation.json"
CSV_FILE = "images.csv"
PAGE_FILE = "evaluation.html"
RESULT_FILES = (PAGE_FILE, JSON_FILE, CSV_FILE)
FILES = (*RESULT_FILES, "partial.json", "log.txt")
COLUMNS = ("id", "miou", "pixel_accuracy", "confidence")


def evaluation_folder(out: str | None, checkpoint: PathOrUri) -> Path:
    """The folder that an evaluation is written to.

    Args:
        out: of `--out`; None: `evaluations/NAME-TIME` in the working folder.
        checkpoint: `RUN/checkpoints/NAME/last.pt`, after which the folder is named.

    Raises:
        InputError: it holds something that is no evaluation, or is no folder of this machine.
    """
    if out is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path("evaluations", f"{_name_of(checkpoint)}-{stamp}")
    if paths.is_remote(out):
        raise InputError(f"--out {out} must be a folder on this machine")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {out} is a file, must be a folder; choose another name")
    others = [] if not folder.exists() else _foreign_entries(folder)
    if others:
        raise InputError(
            f"--out {out} holds other files, such as {others[0]}; choose a new or empty folder, or "
            "one of an earlier evaluation, which is replaced"
        )
    return folder


def make_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {folder} cannot be made ({error_summary(error)}); choose another folder"
        ) from None


def _foreign_entries(folder: Path) -> list[str]:
    """Names in a folder that no evaluation has written. A killed one leaves partial files."""
    names = sorted(entry.name for entry in folder.iterdir())
    own = [*FILES, *(name for name in names if name.endswith(".partial"))]
    return [name for name in names if name not in own]


def _name_of(checkpoint: PathOrUri) -> str:
    parts = str(checkpoint).rstrip("/").split("/")
    trial = parts[-2] if len(parts) > 1 else ""
    if len(parts) > 3 and parts[-3] == "checkpoints":
        return f"{parts[-4]}-{trial}"
    return trial.strip(".") or "checkpoint"


def write_evaluation(report: dict[str, Any], worst: list[Any], folder: Path) -> None:
    """Write the three files, each as a whole.

    Args:
        report: of `Evaluation.report`.
        worst: of `worst_images.draw_worst_images`, shown on the page.
        folder: the folder, which exists.

    Raises:
        OSError: a file cannot be written.
    """
    text = json.dumps(report, indent=1, allow_nan=False)
    paths.write_text(folder / JSON_FILE, text + "\n")
    paths.write_text(folder / CSV_FILE, images_csv(report["images"]))
    write_evaluation_page(report, worst, folder / PAGE_FILE)


def images_csv(images: list[dict[str, Any]]) -> str:
    """One line per image; empty fields where an image has no labeled pixel."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(images)
    return out.getvalue()
