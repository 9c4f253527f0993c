"""Checks of a machine and its cluster for `cid_ray.doctor`."""
