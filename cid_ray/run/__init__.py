"""One training run: the loop, its state on disk, its device, its workers. Joins core, data and results; Ray is lazy."""
