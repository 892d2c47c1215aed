"""The parts of `wav2vec2_digits.py`: recordings, models, and their training."""
