"""`itpn-ray cache-teacher`: a CLIP teacher's features, written once."""
