"""`itpn-ray verify-resume`: the kill test on a run's own configuration."""
