"""Pre-train, fine-tune and tune Fast-iTPN on your own images with Ray."""
