"""Stored teacher outputs in the hooks, as far as no framework matters: ``distillation.cache`` of a configuration.

`kdhooks.cache` keeps rows of bytes by key. Here stands what joins it to a run:

- `looks`: what the criteria look at, which is what a row holds; `functions`: selectors by what they do.
- `batches`: rows of a batch, and the positions of its tokens.
- `shared`: the one store of a run, opened at its first use.
- `teacher`: stands before a teacher and runs it for missing rows only; a backend's own builds on it.
- `served`: what criteria read in place of captured layers; `measured`: what a codec does to a loss.
"""
