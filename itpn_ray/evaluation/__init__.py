"""Evaluators, one a file: each takes batches or features and answers with metrics or a plot."""
