"""The classes of a data set that names none: by the ids in its masks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cid_ray.data.ingest.classes import ClassList
from cid_ray.data.ingest.errors import BadFile
from cid_ray.data.ingest.items import DrawnMask, ImportItem
from cid_ray.data.ingest.mask_reader import MaskReader


def guess_classes(items: Iterable[ImportItem], reader: MaskReader) -> ClassList:
    """class_0, class_1, ... up to the highest id in the masks.

    Every mask is read. A bad file is skipped here: the audit names it.
    """
    highest = 0
    for item in items:
        if item.mask is None or isinstance(item.mask, DrawnMask):
            continue
        try:
            present = np.unique(reader.read_file(item.mask).ids)
        except BadFile:
            continue
        highest = max(highest, int(present[present != reader.ignore_index].max(initial=0)))
    return ClassList.of_names(f"class_{index}" for index in range(highest + 1))
