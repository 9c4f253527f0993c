"""Law: a TIFF file of any content is read by rows, or refused by name: with no other error, and
without memory that the file does not account for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile
from hypothesis import given

from cid_ray.config import InputError
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.tiff_windows import NotWindowed, TiffWindows
from tests.helpers.fuzzing import Edit, damage, edits, fuzz, result_or_refusal
from tests.helpers.image_tables import random_image

LAYOUTS = ("strips", "tiles")
STEP = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Layout -> the content of a valid file."""
    file = tmp_path_factory.mktemp("valid") / "a.tif"
    contents = {}
    for layout in LAYOUTS:
        options = {"tile": (32, 32)} if layout == "tiles" else {"rowsperstrip": 16}
        tifffile.imwrite(file, random_image(0, (96, 80)), compression="zlib", **options)
        contents[layout] = file.read_bytes()
    return contents


def read_rows(file: Path) -> int:
    """The number of rows read."""
    try:
        with TiffWindows(file) as windows:
            height, width = windows.size
            for top in range(0, min(height, 4 * STEP), STEP):
                bottom = min(top + STEP, height)
                assert windows.rgb_rows(top, bottom).shape == (bottom - top, width, 3)
            return height
    except NotWindowed as error:
        raise InputError(f"{file}: {error}".replace("\n", " ")) from None
    except BadFile as error:
        raise InputError(str(error).replace("\n", " ")) from None


@pytest.mark.parametrize("layout", LAYOUTS)
@fuzz(0.5)
@given(edits=edits)
def test_damaged_tiff(
    files: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    edits: list[Edit],
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.tif"
    file.write_bytes(damage(files[layout], edits))
    result_or_refusal(lambda: read_rows(file), file)
