"""The trunks of iTPN and Fast-iTPN, and the feature pyramid on top."""
