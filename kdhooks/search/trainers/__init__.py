"""Out of the box with Hugging Face: the builder, and a trainer that searches."""
