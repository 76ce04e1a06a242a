"""Inference: a question of the user's own, and what more samples and more attempts bring."""
