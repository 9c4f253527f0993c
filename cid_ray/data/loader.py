"""Batches of cropped images, decoded by a process's own threads.

    image_x u8[B,C,H,W]  mask_x u8[B,H,W]  valid_x bool[B,H,W]                labeled
    image_u u8[B,C,H,W]  valid_u bool[B,H,W]  unreadable_u str[B]             pool

C is the table's `num_channels`, B this worker's shard of the global batch, and H, W are
`data.crop_size`. `valid` is False on padding. Masks hold 255 on padding and on ignored pixels.

Each crop is seeded by the image's position in the order (`data/sampling.py`), so threads, caches
and the number of workers change no pixel. A pool image that cannot be read is replaced by the next
readable image of the epoch. `unreadable_u` then holds a line "ID: reason" for each image that
failed.

`data/ray_data.py` makes the same batches by Ray Data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from cid_ray.config import DataConfig, InputError
from cid_ray.data.band_image import Picture
from cid_ray.data.cache import CachedReader
from cid_ray.data.sampling import LABELED, SampleOrder, SamplingPlan
from cid_ray.data.table import IGNORED
from cid_ray.data.table_errors import UnreadableImage

MAX_SUBSTITUTES = 20  # images that are tried for one position before the run ends
Batch = dict[str, np.ndarray]


def local_batches(
    reader: CachedReader,
    plan: SamplingPlan,
    data: DataConfig,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[Batch, None, None]:
    """This worker's batches of steps start..stop-1, decoded by `data.threads` threads.

    Args:
        reader: reads decoded images.
        plan: which image comes at which step.
        data: crop size, random resize, flip and threads.
        start: the first step; a resumed run starts at its checkpoint's step.
        stop: the step after the last one.
        rank: this worker, from 0.
        world_size: number of workers.

    Yields:
        A Batch per step, see the module's docstring. Without a pool the `*_u` keys are missing.

    Raises:
        InputError: MAX_SUBSTITUTES pool images in a row cannot be read, or a labeled image cannot.
    """
    orders = [order for order in (plan.labeled, plan.pool) if order is not None]

    def load(step: int) -> Batch:
        batch: Batch = {}
        for order in orders:
            batch |= load_shard(reader, order, order.positions(step, rank, world_size), data)
        return batch

    # One step more than there are threads: a thread that finishes finds work, in bounded memory.
    in_flight = data.threads + 1
    with ThreadPoolExecutor(data.threads) as threads:
        first_steps = range(start, min(stop, start + in_flight))
        ahead = deque(threads.submit(load, step) for step in first_steps)
        try:
            for step in range(start, stop):
                batch = ahead.popleft().result()
                next_step = step + in_flight
                if next_step < stop:
                    ahead.append(threads.submit(load, next_step))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def load_shard(
    reader: CachedReader, order: SampleOrder, positions: Sequence[int], data: DataConfig
) -> Batch:
    """The images at B positions of an order, each in the weak view that its position seeds."""
    count = len(positions)
    images = np.zeros((count, reader.table.num_channels, *data.crop), np.uint8)
    valid = np.zeros((count, *data.crop), bool)
    is_labeled = order.kind == LABELED
    masks = np.full((count, *data.crop), IGNORED, np.uint8) if is_labeled else None
    unreadable = []
    for index, position in enumerate(positions):
        image, mask, errors = read_position(reader, order, position)
        unreadable.append(errors)
        rng = np.random.default_rng([order.seed, order.kind, position])
        out_mask = None if masks is None else masks[index]
        weak_view(image, mask, data, rng, images[index], valid[index], out_mask)
    if masks is not None:
        return {"image_x": images, "valid_x": valid, "mask_x": masks}
    return {"image_u": images, "valid_u": valid, "unreadable_u": np.array(unreadable, np.str_)}


def read_position(
    reader: CachedReader, order: SampleOrder, position: int
) -> tuple[Picture, np.ndarray | None, str]:
    """The image at a position, its mask if it is labeled, and a line per image that cannot be read.

    Only pool images have substitutes. A labeled image that cannot be read raises UnreadableImage,
    because each label counts.
    """
    if order.kind == LABELED:
        image, mask = reader(order.row_at(position), mask=True)
        return image, mask, ""
    errors: list[str] = []
    for offset in range(min(MAX_SUBSTITUTES, len(order.rows))):
        try:
            image, _ = reader(order.row_at(position, offset), mask=False)
            return image, None, "\n".join(errors)
        except UnreadableImage as error:
            errors.append(f"{error.image_id}: {error.reason}")
    raise InputError(
        f"{len(errors)} pool images in a row cannot be read: {', '.join(errors)}; "
        "import again with --skip-bad"
    )


def weak_view(
    image: Picture,
    mask: np.ndarray | None,
    data: DataConfig,
    rng: np.random.Generator,
    out_image: np.ndarray,
    out_valid: np.ndarray,
    out_mask: np.ndarray | None = None,
) -> None:
    """Random resize, crop and flip, written into a batch's arrays.

    The crop is cut in the source's own pixels and resized once, which is cheaper than resizing the
    whole image. What is outside the image stays padding.

    Args:
        image: the image, of C channels.
        mask: its mask u8[h, w], or None.
        data: crop size, `scale_range` of the random resize, probability of a flip.
        rng: seeded by the image's position.
        out_image: u8[C, H, W], filled with 0.
        out_valid: bool[H, W], filled with False.
        out_mask: u8[H, W], filled with 255; None for pool images.
    """
    crop_h, crop_w = data.crop
    scale = rng.uniform(*data.scale_range)
    scaled_h = max(1, round(image.height * scale))
    scaled_w = max(1, round(image.width * scale))
    top = int(rng.integers(0, max(0, scaled_h - crop_h) + 1))
    left = int(rng.integers(0, max(0, scaled_w - crop_w) + 1))
    if rng.random() < data.hflip:
        # Views that count columns from the right: what is written into them is flipped.
        out_image = out_image[..., ::-1]
        out_valid = out_valid[:, ::-1]
        out_mask = None if out_mask is None else out_mask[:, ::-1]
    height = min(crop_h, scaled_h)  # of the part of the crop that is inside the image
    width = min(crop_w, scaled_w)
    pixels_per_row = image.height / scaled_h  # of the source, per row of the crop
    pixels_per_column = image.width / scaled_w
    box = (
        left * pixels_per_column,
        top * pixels_per_row,
        min(image.width, (left + width) * pixels_per_column),
        min(image.height, (top + height) * pixels_per_row),
    )
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
    out_image[:, :height, :width] = resized.transpose(2, 0, 1)
    out_valid[:height, :width] = True
    if mask is not None and out_mask is not None:
        nearest = Image.Resampling.NEAREST  # class ids must not be averaged
        class_ids = Image.fromarray(mask).resize((width, height), nearest, box=box)
        out_mask[:height, :width] = np.asarray(class_ids)
