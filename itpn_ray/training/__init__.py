"""One training loop for every task, and what surrounds it: optimiser, checkpoints, workers."""
