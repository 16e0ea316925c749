"""Changes of a published index, each a new generation."""
