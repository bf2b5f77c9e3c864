"""Readers of images with objects: a layout of annotation files each."""
