"""What must be known to give a network the values it was trained on, and to name what it answers.

An import turns image files into bytes: a window for deep images, a choice of bands. A checkpoint
holds a copy of this, so that a network can be used without its table.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cid_ray.data.band_image import MAX_CHANNELS

MAX_CLASSES = 255  # an id is a byte, and one of the 256 means "no label"

Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[list[Byte], Field(min_length=3, max_length=3)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Limits = Annotated[list[Finite], Field(min_length=2, max_length=2)]  # become 0 and 255


class WindowSpec(BaseModel):
    """The values of deep images that became 0 and 255, and where they come from."""

    model_config = ConfigDict(strict=True, frozen=True)
    low: Finite
    high: Finite
    source: str = ""


class InputSpec(BaseModel):
    """How an import read its image files."""

    model_config = ConfigDict(strict=True, frozen=True)
    num_channels: int = Field(3, ge=1, le=MAX_CHANNELS)
    window: WindowSpec | None = None  # None: no image had more than 8 bits
    bands: list[int] | None = Field(None, max_length=MAX_CHANNELS)  # from 1; None: pictures
    band_windows: list[Limits] | None = Field(None, max_length=MAX_CHANNELS)  # of each of them


class ModelData(InputSpec):
    """What a checkpoint holds of the table that its network was trained on."""

    classes: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    colors: list[Color]
    table: str = ""  # the table's fingerprint
