"""Importers, one file per format: each lists the images, masks and classes of a data set.

A lister opens no image. It returns an `ImportPlan`, which `data/ingest` reads, audits and writes,
the same for all formats. `formats.py` has them all with their options.
"""

from cid_ray.data.importers.camvid import list_camvid
from cid_ray.data.importers.folders import list_folders
from cid_ray.data.importers.formats import FORMATS

__all__ = ["FORMATS", "list_camvid", "list_folders"]
