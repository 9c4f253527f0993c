"""cid_ray: Cross-Image Distillation for semi-supervised segmentation, searched and scaled with Ray."""

__version__ = "0.1.0"
