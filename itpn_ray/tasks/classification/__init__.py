"""Fine-tuning for classification (paper, 5.2)."""
