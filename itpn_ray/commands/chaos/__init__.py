"""`itpn-ray chaos`: faults on request."""
