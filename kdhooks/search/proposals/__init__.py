"""Where candidates come from: the space, and the algorithms that propose points of it."""
