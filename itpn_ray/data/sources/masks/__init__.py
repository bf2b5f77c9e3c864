"""Sources of images with a class a pixel."""
