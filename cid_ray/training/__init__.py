"""One training run: the loop, its checkpoints, its device, its workers.

Joins core, data, results and resources. Ray is imported inside functions.
"""
