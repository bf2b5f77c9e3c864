"""Checkpoints: what is in one, writing and verifying it, and a run's whole state."""
