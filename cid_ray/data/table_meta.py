"""`meta.json` of a table, checked where it is read: its names and colors get onto pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cid_ray.config import format_validation_error
from cid_ray.data.input_spec import MAX_CLASSES, Byte, Color, InputSpec, ModelData
from cid_ray.storage import json_file, paths
from cid_ray.storage.json_file import MEGABYTE
from cid_ray.storage.paths import PathOrUri

MAX_BYTES = 64 * MEGABYTE  # it names every file that an import left out
MAX_NAME_CHARS = 200
MAX_SHOWN_NAMES = 25
MAX_PAIRS = 1000  # near-duplicates that are named

Model = TypeVar("Model", bound=BaseModel)
BandValue = Annotated[float, Field(ge=0, le=255)]
BandStats = tuple[list[float], list[float]]  # mean and standard deviation of each band


class TableMeta(InputSpec):
    """The fields of `meta.json` that are used. An import adds what it skipped and warned of."""

    classes: list[str] = Field(min_length=1, max_length=MAX_CLASSES)
    colors: list[Color]
    ignore_index: Byte
    fingerprint: str = Field(pattern=r"^[0-9a-f]{16}$")
    index_sha256: str | None = None  # of index.parquet; tables of an older import have none
    tile: int | None = Field(None, ge=1)  # side of the tiles, in pixels; None: rows are images
    overlap: int = Field(0, ge=0)  # pixels that neighbouring tiles share at least
    # Of the stored values, over train. Always there when the channels are not red, green and blue.
    band_mean: list[BandValue] | None = None
    band_std: list[BandValue] | None = None

    @field_validator("classes")
    @classmethod
    def _plain_names(cls, classes: list[str]) -> list[str]:
        for name in classes:
            check_class_name(name)
        if len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @property
    def band_stats(self) -> BandStats | None:
        """Mean and standard deviation of each band; None for three channels."""
        if self.num_channels == 3 or self.band_mean is None or self.band_std is None:
            return None
        return self.band_mean, self.band_std

    @property
    def model_data(self) -> ModelData:
        """What a network needs to know of the table after training."""
        spec = self.model_dump(include=set(InputSpec.model_fields))
        return ModelData(**spec, classes=self.classes, colors=self.colors, table=self.fingerprint)


class FindingNote(BaseModel):
    """What an import left out, changed or guessed."""

    kind: str
    reason: str
    count: int
    examples: list[str] = []


class PairNote(BaseModel):
    """Two images that look alike, by their names in the import."""

    first: str
    second: str
    distance: int
    removed: bool


class ImportNotes(BaseModel):
    """What `meta.json` says about an import. Older tables say less.

    `model_extra` has what else an import stored, such as the window of 16-bit images.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")
    imported: dict[str, Any] = {}  # format, options, date and version
    findings: list[FindingNote] | None = None  # None: not recorded
    skipped: list[str] = []  # a message per bad file
    warnings: list[str] = []
    near_duplicates: list[PairNote] = Field(default=[], max_length=MAX_PAIRS)
    near_duplicate_pairs: int = 0  # more than are named


def check_class_name(name: str) -> None:
    """Raise ValueError for a class name that is empty, long, or holds a control character."""
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME_CHARS:
        raise ValueError(
            f"{name[:MAX_NAME_CHARS]!r} is no class name: it is empty, has control characters, or "
            f"more than {MAX_NAME_CHARS} characters"
        )


def some_names(names: Sequence[str]) -> str:
    """The first names of a list, for a line on a terminal: "road, sky, ... (182)"."""
    if len(names) <= MAX_SHOWN_NAMES:
        return ", ".join(names)
    return ", ".join([*names[: MAX_SHOWN_NAMES - 1], f"... ({len(names)})"])


def read_meta(folder: PathOrUri) -> TableMeta:
    """The description of a table.

    Raises:
        FileNotFoundError: the folder has no `meta.json`.
        ValueError: it is no JSON, or a value breaks its rule.
        InputError: it is too large.
    """
    meta = _read(TableMeta, folder)
    if len(meta.colors) != len(meta.classes):
        raise ValueError(f"meta.json: {len(meta.classes)} classes have {len(meta.colors)} colors")
    lengths = {len(meta.band_mean or []), len(meta.band_std or [])}
    if meta.num_channels != 3 and lengths != {meta.num_channels}:
        raise ValueError(f"meta.json: band_mean and band_std must be of {meta.num_channels} bands")
    return meta


def read_notes(folder: PathOrUri) -> ImportNotes:
    """What the import of a table left out, changed or guessed, and by which options it was made.

    Raises:
        ValueError: `meta.json` is no JSON, or a note has another form than an import writes.
        InputError: it is too large.

    Example:
        >>> [finding.reason for finding in read_notes(Path("tables/mine")).findings or []]
        ['hidden files']
    """
    return _read(ImportNotes, folder)


def _read(model: type[Model], folder: PathOrUri) -> Model:
    content: Any = json_file.parse_json(
        json_file.read_limited(paths.join(folder, "meta.json"), MAX_BYTES)
    )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"meta.json: {format_validation_error(error)}") from None
