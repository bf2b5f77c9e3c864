"""Object detection and instance segmentation over the pre-trained pyramid (paper, 5.3)."""
