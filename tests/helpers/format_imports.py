"""Runs `prepare FORMAT` on a small data set and reads what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cid_ray import prepare
from cid_ray.config import InputError
from cid_ray.data.table import Table


def import_set(out: Path, *arguments: object) -> Table:
    """The table of `prepare` with these arguments."""
    assert prepare.main([*map(str, arguments), "--out", str(out)]) == 0
    return Table(out)


def refusal(out: Path, *arguments: object) -> str:
    """The one line with which `prepare` refuses these arguments. Nothing may be left."""
    with pytest.raises(InputError) as caught:
        prepare.main([*map(str, arguments), "--out", str(out)])
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def findings_of(table: Table) -> dict[str, int]:
    """Reason -> count of a table's findings, without the guessed val images."""
    meta = json.loads(Path(str(table.folder), "meta.json").read_text())
    counts = {finding["reason"]: finding["count"] for finding in meta["findings"]}
    return {reason: n for reason, n in counts.items() if not reason.startswith("val images")}


def mask_of(table: Table, image_path: str) -> np.ndarray:
    """The mask of an image, which must have one."""
    mask = table.mask(table.index["image_path"].to_pylist().index(image_path))
    assert mask is not None
    return mask
