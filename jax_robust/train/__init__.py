"""One loop for every objective, its state, its checkpoints, and its ways over many devices."""
