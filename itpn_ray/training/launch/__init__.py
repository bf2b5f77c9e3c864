"""A run from its start: checks, workers under Ray Train or in this process, its end."""
