"""How far a method scales: ladders of labels, pool, workers and others."""
