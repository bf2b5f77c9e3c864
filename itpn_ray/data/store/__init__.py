"""Prepared data as it is stored: shards, manifest, cached copies, teacher features."""
