"""Readers of raw images, one layout a file."""
