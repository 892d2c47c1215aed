"""Distillation in Lightning 2: one callback for an unchanged ``LightningModule`` and ``Trainer``.

What it does is in `kdhooks.integrations.lightning_callback`; here it is one of the package ``lightning``, and
in `kdhooks.integrations.pytorch_lightning` one of the package of that name, which is the same code under another name.
"""

from __future__ import annotations

from kdhooks.errors import MissingPackageError
from kdhooks.integrations.lightning_callback.callback import DistillationEvents

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    if str(error.name).split(".")[0] != "lightning":
        raise
    raise MissingPackageError("lightning", "kdhooks.integrations.lightning", "lightning") from None

__all__ = ["DistillationCallback"]


class DistillationCallback(DistillationEvents, Callback):
    """Distillation in a Lightning ``Trainer``, with the ``LightningModule`` as it is.

    The student is the module's one trained child, or of several the one that is called ``model``, or the module
    itself where it has a ``forward``; `student` says another. It is called once in ``training_step``, by the user's
    own code; the teacher gets what it got. The loss that ``training_step`` returns, or under manual optimization the
    one that ``manual_backward`` gets, becomes the total; what the module logs itself stays its own loss. The teacher
    is moved to the trainer's device and is no part of the module, its checkpoints or its optimizers.

    Args:
        distiller: with the teacher set; its ``student_model`` may be left unset.
        student: the dotted name of the student in the module, or a function from the module to it.
        arguments: a function from a batch to keyword arguments of `kdhooks.Distillation.on_after_compute_loss`:
            ``target``, ``mask``, ``sample_ids``, ``teacher_input``, ``target_input`` and so on. By default labels
            are taken from ``(inputs, target)`` and from mappings with ``labels`` or ``target``, where they fit.
        several_forwards: whether ``training_step`` may call the student several times; the last one is followed.
        divided_by: what a ``training_step`` with manual optimization divides its loss by, to accumulate gradients.
        log: whether the components of the loss go to the trainer's loggers: those of a step at every
            ``log_every_n_steps``, and their means at the end of an epoch, as ``kd/KL`` and ``kd/KL_epoch``.
        prefix: of their names.
        prog_bar: whether they are shown in the progress bar as well.
        sync_dist: whether they are means over the processes rather than those of rank 0.

    Raises:
        UsageError: `distiller` is not a `kdhooks.Distillation`.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> from kdhooks.integrations.lightning import DistillationCallback
        >>> from lightning.pytorch import Trainer
        >>> distiller = Distillation(teacher_model=torch.nn.Linear(4, 3))
        >>> trainer = Trainer(callbacks=[DistillationCallback(distiller)], accelerator="cpu", logger=False)
    """
