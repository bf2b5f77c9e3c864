"""What a card gives: `python -m benchmarks.gpu`, see docs/benchmarks/gpu.md."""
