"""What the built-in loops of the backends share: batches, progress, signals, checkpoints and the epochs themselves.

Rule: no framework. What a framework does is a method that the backend's own class overrides, or a function it passes.
"""
