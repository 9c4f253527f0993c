"""From listed files to an audited table, the same way for every format.

The way of an image: `listing` and `pairing` find the files, `image_reader` and `mask_reader` read
them, `duplicates` and `audit` judge them, `write` stores them. What is left out, changed or guessed
on the way goes into `findings`.
"""

from cid_ray.data.ingest.findings import Findings
from cid_ray.data.ingest.items import DrawnMask, ImportItem, ImportPlan
from cid_ray.data.ingest.options import ImportOptions
from cid_ray.data.ingest.write import ImportResult, check_output, write_table

__all__ = [
    "DrawnMask",
    "Findings",
    "ImportItem",
    "ImportOptions",
    "ImportPlan",
    "ImportResult",
    "check_output",
    "write_table",
]
