"""Mask R-CNN and Cascade Mask R-CNN over the pre-trained pyramid (paper, 5.3)."""
