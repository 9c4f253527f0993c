"""What a run may use: Ray, the nodes of its cluster, their CPUs and GPUs, and what they cost."""
