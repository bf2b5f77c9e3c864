"""`itpn-ray evaluate`: accuracy and speed from a weight file."""
