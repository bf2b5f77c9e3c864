"""Checks of raw annotations and of prepared data."""
