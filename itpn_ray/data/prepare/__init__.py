"""Raw images to shards with a manifest."""
