"""A run: the training loop with everything that is written around it, in a directory that other tools can read."""
