"""Detectors over a trunk with its pyramid; this file stays free of torch."""
