"""Rotated Faster R-CNN: horizontal proposals, turned boxes (paper, 5.3 and Table 7)."""
