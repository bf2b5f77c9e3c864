"""Readers of raw pictures, one layout a file."""
