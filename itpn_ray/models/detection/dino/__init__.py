"""DINO over the pre-trained pyramid (paper, 5.3)."""
