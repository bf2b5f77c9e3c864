"""Fine-tuning for images with several labels each."""
