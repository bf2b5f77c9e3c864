"""Pre-training on a CLIP teacher's tokens (paper, 3.3)."""
