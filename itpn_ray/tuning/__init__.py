"""Sweeps: λ, layer decay and r against accuracy and images a second."""
