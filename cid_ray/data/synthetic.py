"""The generated demo set as a table: made in seconds, deterministic, without a download.

Seven classes on 64 x 96 pixels (`synthetic_scenes.py`). Images come from four "seasons", the
`group` column, which differ in colour cast, contrast, haze, noise and blur. A draw with
`label_from: one_group` sees one season and its pool all four: labels and pool differ in style,
which is what CID is made for. Val and test hold all seasons evenly.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cid_ray.data.image_codec import encode_png
from cid_ray.data.ingest.audit import Audit
from cid_ray.data.ingest.image_reader import ImageContent, hash_pixels
from cid_ray.data.ingest.items import ImportItem
from cid_ray.data.ingest.mask_reader import MaskContent
from cid_ray.data.ingest.write import audited_row
from cid_ray.data.synthetic_scenes import (
    CLASS_COLORS,
    CLASSES,
    SEASONS,
    apply_season,
    render_scene,
)
from cid_ray.data.table import IGNORED
from cid_ray.data.table_format import FORMAT_VERSION
from cid_ray.data.table_writer import TableWriter
from cid_ray.storage.user_dirs import cache_dir

SCENE_VERSION = 1  # part of every seed and of the cache folder's name
# Images, in the order in which they are written: held-out splits first, as the importers do.
SPLIT_COUNTS = {"test": 48, "val": 32, "train": 192}


def ensure_demo_table() -> Path:
    """The folder of the demo table in the user's cache, generated on first use."""
    cache = cache_dir()
    folder = cache / f"demo-{SCENE_VERSION}.{FORMAT_VERSION}"
    if not (folder / "meta.json").is_file():
        # Renamed when complete: processes that start concurrently never see half a table.
        partial = Path(tempfile.mkdtemp(dir=cache))
        write_demo(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return folder


def write_demo(out: Path, counts: dict[str, int] | None = None) -> None:
    """Generate the demo set as a table.

    Args:
        out: the folder to make.
        counts: split -> number of images. With the splits in the order of SPLIT_COUNTS these are
            the first images of each split of the whole set.
    """
    audit = Audit(CLASSES, IGNORED)
    writer = TableWriter(out, CLASSES, list(CLASS_COLORS.values()), IGNORED)
    seasons = list(SEASONS)
    for split_number, (split, count) in enumerate((counts or SPLIT_COUNTS).items()):
        for index in range(count):
            season = seasons[index % len(seasons)]
            # A seed per image: a smaller set holds the same images.
            rng = np.random.default_rng([SCENE_VERSION, split_number, index])
            scene, mask = render_scene(rng)
            image = apply_season(scene, season, rng)
            image_id = f"{split}/{season}_{index:03d}"
            writer.add(generated_row(audit, image_id, split, season, image, mask))
    writer.close(source=f"cid_ray demo set, version {SCENE_VERSION}")


def generated_row(
    audit: Audit, image_id: str, split: str, group: str, image: np.ndarray, mask: np.ndarray
) -> dict[str, Any]:
    """A generated image u8[H, W, 3] and its mask u8[H, W] as a table row."""
    item = ImportItem(
        image_id,
        split,
        image=Path(f"{image_id}.png"),
        mask=Path(f"{image_id}_mask.png"),
        group=group,
        root=Path(),
    )
    height, width = mask.shape
    content = ImageContent(encode_png(image), (height, width), hash_pixels(image))
    return audited_row(audit, item, content, MaskContent(mask))
