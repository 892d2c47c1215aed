"""The ready-made loop on Lightning."""
