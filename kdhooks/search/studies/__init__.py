"""What is remembered of a search, and who works on it: a study in a storage that several processes share."""
