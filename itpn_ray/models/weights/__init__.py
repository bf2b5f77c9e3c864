"""Weight files: ours and the authors', conversion, inspection, export."""
