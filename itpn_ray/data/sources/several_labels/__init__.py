"""Readers of images with several labels each."""
