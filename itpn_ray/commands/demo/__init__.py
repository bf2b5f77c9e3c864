"""`itpn-ray demo`: the whole main job on embedded images."""
