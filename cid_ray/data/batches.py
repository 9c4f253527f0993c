"""Which image comes when, and its bytes as cropped arrays, read by a process's own threads (`data.pool`: by Ray Data).

The order is a function of (seed, step) alone (`Plan`): labeled images cycle, the pool is passed once an epoch, and a
worker takes its slice of every global batch. Crops are seeded by an image's place in that order. So one process and
four workers see the same pixels, and a resumed run goes on where it stopped.

    image_x u8[B,3,H,W]  mask_x u8[B,H,W]  valid_x bool[B,H,W]
    image_u u8[B,3,H,W]  valid_u bool[B,H,W]  unreadable_u str[B]
B is this worker's share of the global batch; `valid` is False on padding. The place of a pool image that cannot be read
is taken by the next one in its epoch's order that can; `unreadable_u` then says "ID: why", of all that were tried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from cid_ray.config import CUTMIX_GROUP, Data, InputError, share_of
from cid_ray.data.cache import Reader
from cid_ray.data.splits import Split
from cid_ray.data.table import UnreadableImage, open_table

LABELED, POOL = 0, 1  # streams of the plan: part of every crop's seed
STAND_INS = 20  # images that are tried for one place
SEVERAL = "\n"
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Stream:
    """An endless seeded order over table rows: every epoch passes each row once, in an order of its own."""

    rows: np.ndarray
    seed: int
    kind: int
    batch: int  # images per step over all workers

    def places(self, step: int, rank: int, world: int) -> range:
        """The places in the order that this worker takes at this step."""
        first, share = step * self.batch, self.share(rank, world)
        return range(first + share.start, first + share.stop)

    def share(self, rank: int, world: int) -> range:
        return share_of(self.batch, rank, world, CUTMIX_GROUP if self.kind == POOL else 1)

    def row(self, place: int, later: int = 0) -> int:
        """The row at a place, or the one so many places later in the same epoch, whose end is followed by its start."""
        epoch, index = divmod(place, len(self.rows))
        order = _permutation(len(self.rows), self.seed, self.kind, epoch)
        return int(self.rows[order[(index + later) % len(order)]])


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, kind: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, kind, epoch]).permutation(count)


@dataclass(frozen=True)
class Plan:
    labeled: Stream
    pool: Stream | None  # None: no unlabeled images are fed

    @classmethod
    def of(cls, data: Data, split: Split, seed: int, feed_pool: bool) -> Plan:
        pool = Stream(split.pool, seed, POOL, data.batch_size_u) if feed_pool else None
        return cls(Stream(split.labeled, seed, LABELED, data.batch_size), pool)


def weak_view(
    image: Image.Image, mask: np.ndarray | None, data: Data, rng: np.random.Generator,
    pixels: np.ndarray, valid: np.ndarray, cropped: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Random resize, crop and flip, written to `pixels` u8[3,H,W] of 0, `valid` bool[H,W] of False, `cropped` u8[H,W]
    of 255, whose values padding keeps.

    The crop is cut in the source's own pixels and resized once; what lies outside the image is padding.
    """
    high, wide = data.crop
    factor = rng.uniform(*data.scale)
    full_h, full_w = max(1, round(image.height * factor)), max(1, round(image.width * factor))
    top, left = (int(rng.integers(0, max(0, full - side) + 1)) for full, side in ((full_h, high), (full_w, wide)))
    if rng.random() < data.hflip:
        pixels, valid = pixels[..., ::-1], valid[:, ::-1]
        cropped = None if cropped is None else cropped[:, ::-1]
    crop_h, crop_w = min(high, full_h), min(wide, full_w)
    sy, sx = image.height / full_h, image.width / full_w
    box = (left * sx, top * sy, min(image.width, (left + crop_w) * sx), min(image.height, (top + crop_h) * sy))
    resized = np.asarray(image.resize((crop_w, crop_h), Image.Resampling.BILINEAR, box=box))
    pixels[:, :crop_h, :crop_w] = resized.transpose(2, 0, 1)
    valid[:crop_h, :crop_w] = True
    if mask is not None and cropped is not None:
        chosen = Image.fromarray(mask).resize((crop_w, crop_h), Image.Resampling.NEAREST, box=box)
        cropped[:crop_h, :crop_w] = np.asarray(chosen)


def load_share(reader: Reader, stream: Stream, places: Sequence[int], data: Data) -> Batch:
    """The images of some places of a stream, each in the weak view that its place seeds."""
    shape = (len(places), *data.crop)
    pixels, valid = np.zeros((len(places), 3, *data.crop), np.uint8), np.zeros(shape, bool)
    masks = np.full(shape, 255, np.uint8) if stream.kind == LABELED else None
    unreadable = []
    for index, place in enumerate(places):
        image, mask, bad = read_place(reader, stream, place)
        unreadable.append(bad)
        rng = np.random.default_rng([stream.seed, stream.kind, place])
        weak_view(image, mask, data, rng, pixels[index], valid[index], None if masks is None else masks[index])
    if masks is not None:
        return {"image_x": pixels, "valid_x": valid, "mask_x": masks}
    return {"image_u": pixels, "valid_u": valid, "unreadable_u": np.array(unreadable, np.str_)}


def read_place(reader: Reader, stream: Stream, place: int) -> tuple[Image.Image, np.ndarray | None, str]:
    """The image at a place, or its stand-in from the pool, and what could not be read. A labeled image has none."""
    if stream.kind == LABELED:
        return (*reader(stream.row(place), mask=True), "")
    bad: list[str] = []
    for later in range(min(STAND_INS, len(stream.rows))):
        try:
            image, _ = reader(stream.row(place, later), mask=False)
            return image, None, SEVERAL.join(bad)
        except UnreadableImage as error:
            bad.append(f"{error.image_id}: {error.why}")
    raise InputError(f"{len(bad)} pool images in a row cannot be read: {', '.join(bad)}; import again with --skip-bad")


def local_batches(
    reader: Reader, plan: Plan, data: Data, start: int, stop: int, rank: int = 0, world: int = 1
) -> Generator[Batch, None, None]:
    """This worker's batches of steps start..stop-1, decoded by threads a few steps ahead."""
    streams = [s for s in (plan.labeled, plan.pool) if s is not None]

    def load(step: int) -> Batch:
        batch: Batch = {}
        for stream in streams:
            batch |= load_share(reader, stream, stream.places(step, rank, world), data)
        return batch

    with ThreadPoolExecutor(data.threads) as threads:
        ahead = deque(threads.submit(load, step) for step in range(start, min(stop, start + data.threads + 1)))
        try:
            for step in range(start, stop):
                batch = ahead.popleft().result()
                following = step + data.threads + 1
                if following < stop:
                    ahead.append(threads.submit(load, following))
                yield batch
        finally:
            for future in ahead:
                future.cancel()


def kept_reader(data: Data, cache_mb: int) -> Reader:
    """The reader of a process that does one job after another: table and cache stay open."""
    return _kept_reader(data.table, data.image_size, cache_mb)


@lru_cache(maxsize=1)
def _kept_reader(table: str, image_size: tuple[int, int] | None, cache_mb: int) -> Reader:
    return Reader(open_table(table), image_size, cache_mb)
