"""The networks under timm's names."""
