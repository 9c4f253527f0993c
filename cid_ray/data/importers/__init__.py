"""Importers, one file per format: each lists the images, masks and classes of a data set.

A lister opens no image. It returns an `ImportPlan`, which `data/ingest` reads, audits and writes,
the same for all formats. `formats.py` has them all with their options.
"""

from cid_ray.data.importers.ade20k import list_ade20k
from cid_ray.data.importers.camvid import list_camvid
from cid_ray.data.importers.cityscapes import list_cityscapes
from cid_ray.data.importers.coco import list_coco
from cid_ray.data.importers.cocostuff import list_cocostuff
from cid_ray.data.importers.cvat import list_cvat
from cid_ray.data.importers.datumaro_import import list_datumaro
from cid_ray.data.importers.folders import list_folders
from cid_ray.data.importers.formats import FORMATS
from cid_ray.data.importers.label_studio import list_label_studio
from cid_ray.data.importers.labelme import list_labelme
from cid_ray.data.importers.voc import list_voc
from cid_ray.data.importers.yolo import list_yolo

__all__ = [
    "FORMATS",
    "list_ade20k",
    "list_camvid",
    "list_cityscapes",
    "list_coco",
    "list_cocostuff",
    "list_cvat",
    "list_datumaro",
    "list_folders",
    "list_label_studio",
    "list_labelme",
    "list_voc",
    "list_yolo",
]
