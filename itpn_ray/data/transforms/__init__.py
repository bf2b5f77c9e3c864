"""Crops, augmentation, views of detection with their targets, and batches on the device."""
