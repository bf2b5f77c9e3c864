"""What is trained: a task builds a network, prepares its batches, and evaluates it."""
