"""`itpn-ray plan`: what a run would take."""
