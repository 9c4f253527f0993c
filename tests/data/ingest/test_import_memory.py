"""Law: an import holds a few images, whatever their number and size."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cid_ray.data import table_writer
from cid_ray.data.importers import list_folders
from cid_ray.data.ingest import DrawnMask, ImportItem, ImportOptions, ImportPlan, read, write_table
from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.decode_gate import DecodeGate
from cid_ray.data.ingest.shapes import Drawing
from tests.helpers.image_tables import SIZE, random_image, random_mask, write_folders

PEAK_OF_IMPORT = """
import resource, sys
from cid_ray import prepare
prepare.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Counter:
    """Counts who is inside, and who has been."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.highest = self.total = 0

    def stay(self, seconds: float = 0.0) -> None:
        with self._lock:
            self.inside += 1
            self.total += 1
            self.highest = max(self.highest, self.inside)
        time.sleep(seconds)
        with self._lock:
            self.inside -= 1


def plan_of(folder: Path, count: int, drawn: Counter, seconds: float) -> ImportPlan:
    """Images whose masks are drawn by the threads that read."""
    folder.mkdir()

    def draw(height: int, width: int) -> Drawing:
        drawn.stay(seconds)
        return Drawing(random_mask(0, 2, (height, width)))

    items = []
    for index in range(count):
        path = folder / f"{index:02d}.png"
        Image.fromarray(random_image(index)).save(path)
        mask = DrawnMask(path, draw)
        items.append(ImportItem(f"train/{index}", "train", path, mask, None, folder))
    return ImportPlan(items, ClassList.of_names(["a", "b"]))


def test_no_more_images_are_read_ahead_than_there_are_threads(tmp_path: Path) -> None:
    drawn = Counter()
    ahead = []

    def look(files: Iterable[Any], total: int) -> Iterator[Any]:
        for taken, file in enumerate(files, 1):
            time.sleep(0.02)  # the threads read as far as they may
            ahead.append(drawn.total - taken)
            yield file

    plan = plan_of(tmp_path / "images", 20, drawn, 0)
    write_table(plan, tmp_path / "table", ImportOptions(progress=look))
    assert drawn.total == 20 and max(ahead) < read.READ_THREADS


@pytest.mark.parametrize(("images_that_fit", "together"), [(1, 1), (2, 2), (0.5, 1)])
def test_images_are_decoded_together_while_their_pixels_fit(
    images_that_fit: float, together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = int(images_that_fit * SIZE[0] * SIZE[1])
    monkeypatch.setattr(read, "MAX_PIXELS_IN_FLIGHT", limit)
    drawn = Counter()
    write_table(plan_of(tmp_path / "images", 8, drawn, 0.05), tmp_path / "table")
    assert drawn.total == 8 and drawn.highest == together


def test_gate_opens_again_after_an_error() -> None:
    gate = DecodeGate(10)
    with pytest.raises(ValueError, match="damaged"), gate.hold(99):
        raise ValueError("damaged")
    with gate.hold(4), gate.hold(6):
        pass


def test_large_images_end_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [random_mask(i) for i in range(19)]
    root = write_folders(tmp_path / "set", masks)
    sizes = [path.stat().st_size for path in sorted((root / "images").iterdir())]
    monkeypatch.setattr(table_writer, "ROW_GROUP_BYTES", 2 * min(sizes))
    plan = list_folders(root / "images", root / "masks")
    table = write_table(plan, tmp_path / "table").table
    metadata = pq.ParquetFile(tmp_path / "table" / "table.parquet").metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(rows) == 19 and max(rows) == 2
    for row, name in enumerate(table.index["image_path"].to_pylist()):
        image, mask = table.read(row, mask=True)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(root / name)))
        np.testing.assert_array_equal(mask, masks[int(Path(name).stem)])


@pytest.mark.process
def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    side = 800
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    mask = Image.fromarray(np.kron(coarse[..., 0] % 3, np.ones((8, 8), np.uint8)))
    peaks = []
    for count in (10, 30):
        root = tmp_path / str(count)
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(np.roll(coarse, index, 0)).resize((side, side))
            image.save(root / "images" / f"{index}.jpg")
            mask.save(root / "masks" / f"{index}.png", compress_level=1)
        options = ["--images", root / "images", "--masks", root / "masks", "--out", root / "table"]
        command = [sys.executable, "-c", PEAK_OF_IMPORT, "folder", *map(str, options)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(1024 * int(done.stdout.split()[-1]))
    few_images = 5 * 3 * side**2  # of RGB
    assert peaks[1] - peaks[0] < few_images, peaks
