"""Pre-training on pixels with a moving-average teacher (paper, 3.2 and 3.3)."""
