"""The ready-made loop on Lightning, with the arguments that users of the Knowledge-Distillation-Toolkit know.

`KnowledgeDistillationTraining` is thin over `kdhooks.Distillation`: Lightning runs the loop, the hooks distil.
Lightning is imported when training starts, not before.
"""

from kdhooks.training.kd_training import KnowledgeDistillationTraining

__all__ = ["KnowledgeDistillationTraining"]
