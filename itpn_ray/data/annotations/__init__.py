"""Annotated objects: their arrays, their faults, polygons and run lengths."""
