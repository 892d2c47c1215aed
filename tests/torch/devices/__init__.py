"""Students and teachers on many devices: processes that train together."""
