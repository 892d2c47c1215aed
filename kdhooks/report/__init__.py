"""The page of a run, made from what the run left on disk."""
