"""The run folder: names, journal, lease and reader; the only place that knows its format."""
