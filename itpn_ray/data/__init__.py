"""From raw pictures to shards, and from shards to device batches."""
