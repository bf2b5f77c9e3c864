"""Segmentation by queries, each of which finds a class and its mask."""
