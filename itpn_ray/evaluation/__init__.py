"""Evaluators, one a file: each is told batches or features and answers with figures or a plot."""
