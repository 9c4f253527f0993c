"""What a search takes on a cluster that does not run yet. Neither torch nor Ray is needed."""
