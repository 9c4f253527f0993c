"""The pixels of a mask's file, before they mean a class: ids or colours.

Bit depths, channels and number types in which tools save masks become one of two arrays here. What
has lost the exact values (JPEG, transparency, fractions) is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cid_ray.data.image_codec import open_image
from cid_ray.data.ingest import pixel_arrays
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.netpbm import netpbm_maxval, read_netpbm
from cid_ray.data.ingest.orientation import read_orientation, turn
from cid_ray.data.ingest.pillow_pixels import raw_mode_of

COLOR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV")
GREY_SCALES = {"L;2": 85, "L;4": 17}  # Pillow stretches these ids over 0..255
SEVERAL_PAGES = "masks of several pages, of which the first was read"


@dataclass(frozen=True)
class MaskPixels:
    """What a mask's file holds."""

    values: np.ndarray  # ids u8[H, W], or colours u32[H, W] as r + 256 g + 65536 b
    palette: np.ndarray | None = None  # u32[256], the colours of ids that index a palette
    changes: tuple[str, ...] = ()  # what was changed, each a noun phrase in the plural

    @property
    def is_color(self) -> bool:
        """Whether the values are colours."""
        return self.values.dtype == np.uint32


@dataclass(frozen=True)
class MaskHeader:
    """What a mask's file says of itself, without its pixels."""

    path: Path
    is_color: bool
    lossy_format: str | None  # "JPEG"
    palette: bytes | None


def read_header(path: Path) -> MaskHeader | None:
    """The header of a mask's file; None if it cannot be read: decoding it reports why."""
    try:
        with open_image(path) as image:
            palette = image.palette.tobytes() if image.mode == "P" and image.palette else None
            return MaskHeader(path, image.mode in COLOR_MODES, _lossy_format(path, image), palette)
    except pixel_arrays.DECODE_ERRORS:
        return None


def read_pixels(path: Path) -> MaskPixels:
    """Read a mask's file.

    Raises:
        BadFile: it cannot be decoded, was compressed with loss, or its values are no ids.
    """
    try:
        # From a path Pillow would map some TIFFs into memory, and not turn those.
        encoded = path.read_bytes()
        with open_image(encoded) as image:
            _check_lossless(path, image)
            if image.format == "PPM" and netpbm_maxval(encoded) != 255:
                return MaskPixels(_to_ids(path, _one_channel(path, read_netpbm(encoded))))
            pages = (SEVERAL_PAGES,) if getattr(image, "n_frames", 1) > 1 else ()
            scale = GREY_SCALES.get(raw_mode_of(image)[:3], 1)
            if image.mode in COLOR_MODES:
                colors = turn(_pack_colors(path, image), read_orientation(image))
                return MaskPixels(colors, None, pages)
            palette = _palette_of(image) if image.mode == "P" else None
            values = turn(np.asarray(image), read_orientation(image))
    except UnidentifiedImageError:
        return MaskPixels(_to_ids(path, _read_unusual(path, encoded)))
    except pixel_arrays.DECODE_ERRORS as error:
        raise BadFile(f"{path}: unreadable mask ({error})") from None
    if values.ndim == 3:  # LA, PA
        _check_opaque(path, values[..., 1])
        values = values[..., 0]
    return MaskPixels(_to_ids(path, values // scale if scale > 1 else values), palette, pages)


def _read_unusual(path: Path, encoded: bytes) -> np.ndarray:
    """[H, W] of a file that Pillow does not know, such as a TIFF of 64-bit floats."""
    try:
        values = pixel_arrays.read_pixels(encoded).values
    except (pixel_arrays.UnusablePixels, *pixel_arrays.DECODE_ERRORS) as error:
        reason = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise BadFile(f"{path}: unreadable mask ({reason})") from None
    return _one_channel(path, values)


def _one_channel(path: Path, values: np.ndarray) -> np.ndarray:
    if values.ndim != 2:
        raise BadFile(
            f"{path}: a mask of {values.shape[-1]} channels of {values.dtype}; save it as one "
            "channel of ids, or as colours of 8 bits"
        )
    return values


def pack_colors(colors: npt.ArrayLike) -> np.ndarray:
    """u32[N] of colours [N, 3], as in `MaskPixels.values`."""
    red, green, blue = np.moveaxis(np.asarray(colors, np.uint32).reshape(-1, 3), -1, 0)
    return red | green << 8 | blue << 16


def unpack_color(packed: int) -> tuple[int, int, int]:
    """(r, g, b) of a packed colour."""
    return packed & 255, packed >> 8 & 255, packed >> 16 & 255


def _pack_colors(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode == "RGBA":
        _check_opaque(path, np.asarray(image.getchannel("A")))
    # Pillow holds RGB in four bytes a pixel, so this copies once and computes nothing.
    pixels = image.convert("RGB").convert("RGBA")
    packed = np.frombuffer(pixels.tobytes(), "<u4").reshape(image.height, image.width)
    return packed & 0xFFFFFF


def _check_lossless(path: Path, image: Image.Image) -> None:
    lossy = _lossy_format(path, image)
    if lossy:
        raise BadFile(
            f"{path}: the mask is {lossy}, whose compression changes ids and colours; "
            "export the masks again as PNG"
        )
    if image.mode in (*COLOR_MODES, "LA") and ";16" in raw_mode_of(image):
        raise BadFile(
            f"{path}: a mask of several channels with 16 bits, of which 8 would be lost; "
            "save it as colours of 8 bits, or as one channel of ids"
        )


def _lossy_format(path: Path, image: Image.Image) -> str | None:
    """The name of the lossy compression of an opened image, whatever its file's suffix."""
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression", "")):
        return "TIFF with JPEG compression"
    if image.format == "WEBP" and _is_lossy_webp(path):
        return "lossy WebP"
    return None


def _is_lossy_webp(path: Path) -> bool:
    """Whether the file has a chunk `VP8 `; lossless ones have `VP8L`. Source: RFC 9649."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8 ", b"VP8L"):
                return head[:4] == b"VP8 "
            if head[:4] != b"ANMF":  # a frame of an animation holds chunks itself
                size = int.from_bytes(head[4:], "little")
                file.seek(size + size % 2, 1)
            else:
                file.seek(16, 1)
    return False


def _palette_of(image: Image.Image) -> np.ndarray:
    colors = np.array(image.getpalette("RGB") or [], np.uint32).reshape(-1, 3)[:256]
    palette = np.zeros(256, np.uint32)
    palette[: len(colors)] = pack_colors(colors)
    return palette


def _check_opaque(path: Path, alpha: np.ndarray) -> None:
    transparent = int(np.count_nonzero(alpha != 255))
    if transparent:
        raise BadFile(
            f"{path}: {transparent:,} of {alpha.size:,} pixels are transparent, which may mean "
            "background or no label; save the mask without transparency, on the right colour"
        )


def _to_ids(path: Path, values: np.ndarray) -> np.ndarray:
    """u8[H, W] of ids of any number type."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        fractions = values[~(values == np.floor(values))]  # NaN too
        if fractions.size:
            raise BadFile(
                f"{path}: the mask holds {fractions[0]:g}, ids are whole numbers; "
                "these may be probabilities, save their class ids"
            )
    lowest, highest = values.min(initial=0), values.max(initial=0)
    if lowest < 0:
        raise BadFile(f"{path}: mask ids from {lowest:g} on, must be 0 or more")
    if highest > 255:
        raise BadFile(f"{path}: mask ids up to {highest:g}, must be below 256")
    return values.astype(np.uint8)
