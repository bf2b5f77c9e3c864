"""Shards to host batches: order, transport, decoding threads, loaders."""
