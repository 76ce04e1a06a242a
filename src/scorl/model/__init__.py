"""The model: where it comes from, how it is prompted, the policy that learns, and the reference that it is held to."""
