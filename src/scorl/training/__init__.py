"""Training: stages, and the loop that goes through them."""
