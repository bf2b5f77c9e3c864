"""`itpn-ray predict`: what is in the images of a folder."""
