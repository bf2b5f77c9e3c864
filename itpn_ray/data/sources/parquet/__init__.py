"""Parquet files of images."""
