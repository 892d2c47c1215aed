"""One candidate from the builder to its record, and the course of a whole search."""
