"""`itpn-ray features`: embeddings of images, and how well they tell classes apart."""
