"""What the section ``finetune`` does in a run: transfer, frozen layers epoch by epoch, L2-SP."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.criterion import Criterion
from kdhooks.errors import UsageError
from kdhooks.transfer import FinetuningHook, Transferred, frozen_at, settings_in
from kdhooks_tf.graphs import ask_at_each_call
from kdhooks_tf.layer_names import require_built
from kdhooks_tf.replicas import strategy_of
from kdhooks_tf.transfer.freezing import Freezer
from kdhooks_tf.transfer.starting_point import L2SP
from kdhooks_tf.transfer.weights import transfer_weights

_FOR_PYTORCH = {
    "lr_factors": "an optimizer of Keras has one learning rate for all weights",
    "delta": "DELTA is for PyTorch",
}


class Finetuning(FinetuningHook):
    """What `kdhooks.transfer.FinetuningHook` is in TensorFlow; ConfigError for what is for PyTorch only."""

    def __init__(self, distiller: Any, settings: FinetuneSettings, earlier: Transferred | None, resumes: bool) -> None:
        require_built(distiller.student_model, "student")
        for key, why in _FOR_PYTORCH.items():
            if getattr(settings, key):
                raise distiller.conf.problem(f"finetune.{key}", f"{why}, and the models are Keras models", of_key=True)
        super().__init__(distiller, settings, earlier, resumes, transfer=transfer_weights, freezer=Freezer)
        self._changes = 0  # of what is frozen, so that a graph of before is known

    def _regularisers(self) -> tuple[Criterion, ...]:
        one = self._settings.l2_sp
        return () if one is None else (L2SP(one.weight, one.new_weight, transferred=self._taken()),)

    # ---- events ------------------------------------------------------------------------------------

    def on_train_begin(self) -> None:
        """Freeze what is frozen in the first epoch."""
        optimizer, student = self._distiller.optimizer, self._distiller.student_model
        if self._settings.unfreeze and isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built:
            with strategy_of(student).scope():
                optimizer.build(student.trainable_variables)  # a built one takes no weights that are set free later
        super().on_train_begin()

    def on_after_compute_loss(self) -> None:
        """Have a graph that is traced now refuse to go on once other weights are frozen."""
        if self._settings.unfreeze and tf.inside_function():
            traced = self._changes

            def check() -> None:
                if self._changes != traced:
                    raise UsageError(
                        f"this tf.function was traced while other layers were frozen than in epoch {self._epoch}: make "
                        "it anew, with tf.function(...), in each epoch that finetune.unfreeze names"
                    )

            ask_at_each_call((self, traced), check)

    def _apply(self, epoch: int) -> None:
        self._epoch = epoch
        self._changes += self._freezer.freeze(frozen_at(epoch, self._settings, self._names))


def finetuning(distiller: Any, earlier: Transferred | None, resumes: bool) -> Finetuning | None:
    """What ``finetune`` and ``pretrained_model`` ask for in a run, or None."""
    settings = settings_in(distiller)
    return None if settings is None else Finetuning(distiller, settings, earlier, resumes)
