"""Importers: images and masks on disk -> an audited table. One file per format.

A format lists its files as `ImportItem`s (`items.py`) and its classes (`classes.py`). `write.py`
reads, audits and writes them, the same for all formats.
"""

from cid_ray.data.importers.camvid import import_camvid, list_camvid
from cid_ray.data.importers.folders import import_folders, list_folders
from cid_ray.data.importers.write import ImportResult, write_table

__all__ = [
    "ImportResult",
    "import_camvid",
    "import_folders",
    "list_camvid",
    "list_folders",
    "write_table",
]
