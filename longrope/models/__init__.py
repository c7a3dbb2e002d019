"""Models in memory: safe loading, factors in them, losses of long documents, their gradient."""
