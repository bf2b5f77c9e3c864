"""The embedded data sets: labelled images drawn in the true formats of the real ones."""
