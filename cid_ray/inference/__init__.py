"""A trained network in use: load it, predict images of any size."""
