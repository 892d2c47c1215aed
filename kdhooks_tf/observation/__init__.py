"""Looks at both models and a few batches for `Distillation.check`, and leaves everything as it was.

`models` and `batches` have what can be seen without a forward, and `look` runs the models and takes the terms apart.
Judging is `kdhooks.check`'s, which knows no framework.
"""

from kdhooks_tf.observation.look import observe

__all__ = ["observe"]
