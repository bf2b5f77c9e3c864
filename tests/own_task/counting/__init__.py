"""A task of another package: how many dots an image shows, as a number, not as a class."""
