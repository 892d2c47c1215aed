"""Functions and class decorators that make a model transferrable."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from kdhooks.config.model import Schedulable
from kdhooks.errors import UsageError
from kdhooks.torch.transfer import BasicFinetunner
from kdhooks.transferrable.adapters import is_adapter
from kdhooks.transferrable.distillers import BasicDistiller
from kdhooks.transferrable.model import TransferrableModel
from kdhooks.transferrable.plan import Loss, Plan
from kdhooks.transferrable.strategy import TransferStrategy

Decorator = Callable[[type[nn.Module]], type[nn.Module]]


def make_transferrable(
    model: nn.Module,
    loss: Loss | None = None,
    finetunner: Any = None,
    distiller: BasicDistiller | None = None,
    adapter: Any = None,
    transfer_strategy: TransferStrategy | None = None,
    enable_target_training_label: bool | None = None,
    backbone_loss_weight: Schedulable = 1.0,
    distiller_loss_weight: Schedulable = 1.0,
    adapter_loss_weight: Schedulable = 1.0,
) -> TransferrableModel:
    """Make a model transferrable with whatever is given.

    The total loss of a step is ``backbone_loss_weight * loss + distiller_loss_weight * the distiller's +
    adapter_loss_weight * the adapter's``. Weights are numbers, or schedules as a configuration writes them.

    Args:
        model: the backbone; it stays the very object, and nothing is set on it.
        loss: (output, label) -> scalar; None takes the method ``loss`` of a backbone that carries its own.
        finetunner: a `kdhooks.torch.transfer.BasicFinetunner`, which changes the backbone's weights now.
        distiller: a `BasicDistiller`, `KD` or `DKD`.
        adapter: see `make_transferrable_with_domain_adaption`.
        transfer_strategy: which of the parts work; parts that it does not use are put aside. None uses all.
        enable_target_training_label: with an adapter whether the target domain's labels are used (False where it is
            left out), without one whether labels are used at all (True).
        backbone_loss_weight: of the backbone's loss.
        distiller_loss_weight: of the distiller's.
        adapter_loss_weight: of the adapter's.

    Raises:
        UsageError: a part is missing or of the wrong kind, or nothing would be trained.
    """
    plan = Plan(
        transfer_strategy,
        finetunner,
        distiller,
        adapter,
        enable_target_training_label,
        backbone_loss_weight,
        distiller_loss_weight,
        adapter_loss_weight,
    )
    return TransferrableModel(model, loss, plan)


def make_transferrable_with_finetune(model: nn.Module, loss: Any = None, finetunner: Any = None) -> TransferrableModel:
    """Let a model begin from pretrained weights.

    Args:
        model: the backbone, whose weights are changed now.
        loss: (output, label) -> scalar; may be left out where the backbone carries its own.
        finetunner: a `kdhooks.torch.transfer.BasicFinetunner`.

    Raises:
        UsageError: a part is missing or of the wrong kind.
        KDHooksError: nothing of the pretrained model fits.
    """
    if finetunner is None and isinstance(loss, BasicFinetunner):
        loss, finetunner = None, loss
    return make_transferrable(model, loss, finetunner, transfer_strategy=TransferStrategy.OnlyFinetuneStrategy)


def make_transferrable_with_knowledge_distillation(
    model: nn.Module,
    loss: Any = None,
    distiller: BasicDistiller | None = None,
    enable_target_training_label: bool = True,
    backbone_loss_weight: Schedulable = 0.1,
    distiller_loss_weight: Schedulable = 0.9,
) -> TransferrableModel:
    """Let a model learn from a teacher.

    Args:
        model: the backbone.
        loss: (output, label) -> scalar; may be left out where the backbone carries its own.
        distiller: a `BasicDistiller`, `KD` or `DKD`.
        enable_target_training_label: whether labels are used; without, the teacher alone is followed.
        backbone_loss_weight: of the backbone's loss.
        distiller_loss_weight: of the distiller's.

    Raises:
        UsageError: a part is missing or of the wrong kind.
    """
    if distiller is None and isinstance(loss, BasicDistiller):
        loss, distiller = None, loss
    return make_transferrable(
        model,
        loss,
        distiller=distiller,
        transfer_strategy=TransferStrategy.OnlyDistillationStrategy,
        enable_target_training_label=enable_target_training_label,
        backbone_loss_weight=backbone_loss_weight,
        distiller_loss_weight=distiller_loss_weight,
    )


def make_transferrable_with_domain_adaption(
    model: nn.Module,
    loss: Any = None,
    adapter: Any = None,
    transfer_strategy: TransferStrategy | None = None,
    enable_target_training_label: bool = False,
    backbone_loss_weight: Schedulable = 1.0,
    adapter_loss_weight: Schedulable = 1.0,
    *,
    finetunner: Any = None,
    distiller: BasicDistiller | None = None,
    distiller_loss_weight: Schedulable = 1.0,
) -> TransferrableModel:
    """Let a model learn from an unlabelled target domain as well.

    In training it is called with both domains, ``model((source, target))``, and so is its loss where the target has
    labels: ``model.loss(output, (source_label, target_label))``, else ``model.loss(output, source_label)``.

    Args:
        model: the backbone.
        loss: (output, label) -> scalar. A backbone that carries its own may leave it out, also in the short form
            ``(model, adapter, transfer_strategy)``; what else there is, is then given by name.
        adapter: a name (``"MCC"``), names with options (``{"DANN": {"layer": "avgpool"}}``), a list of these, an
            instance of an adapter that needs no layer, or a `CACDomainAdversarialLoss` (of a UNet that
            `kdhooks.torch.segmentation` knows it takes all levels); or a mapping that is a whole section
            ``domain_adaptation``, with its ``criterion``.
        transfer_strategy: `OnlyDomainAdaptionStrategy` where it is left out.
        enable_target_training_label: whether the target domain has labels, which then count by the same loss.
        backbone_loss_weight: of the backbone's loss, on both domains.
        adapter_loss_weight: multiplies the weights that adapters have of their own.
        finetunner: for `FinetuneAndDomainAdaptionStrategy`.
        distiller: for `DistillationAndDomainAdaptionStrategy`; the teacher sees the source.
        distiller_loss_weight: of the distiller's loss.

    Raises:
        UsageError: a part is missing or of the wrong kind.
        ConfigError: an unknown adapter, or options that it has not.
    """
    if is_adapter(loss):
        if adapter is not None and not isinstance(adapter, TransferStrategy):
            raise UsageError("loss must be a function of (output, label), and an adapter stands in its place")
        if adapter is not None and transfer_strategy is not None:
            raise UsageError("in (model, adapter, transfer_strategy) what follows is given by name")
        loss, adapter, transfer_strategy = None, loss, adapter or transfer_strategy
    return make_transferrable(
        model,
        loss,
        finetunner,
        distiller,
        adapter,
        TransferStrategy.OnlyDomainAdaptionStrategy if transfer_strategy is None else transfer_strategy,
        enable_target_training_label,
        backbone_loss_weight,
        distiller_loss_weight,
        adapter_loss_weight,
    )


def transferrable(loss: Loss | None = None, **parts: Any) -> Decorator:
    """A class decorator: each call of the class makes a `TransferrableModel`.

    Args:
        loss: see `make_transferrable`.
        parts: the other arguments of `make_transferrable`, by name.

    Example:
        >>> import torch
        >>> from kdhooks.transferrable import KD
        >>> @transferrable(nn.CrossEntropyLoss(), distiller=KD(nn.Linear(4, 3)))
        ... class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(4, 3)
        ...     def forward(self, x):
        ...         return self.fc(x)
        >>> model = Net()
        >>> type(model).__name__, isinstance(model.backbone, Net)
        ('TransferrableModel', True)
    """
    return _decorator(functools.partial(make_transferrable, loss=loss, **parts))


def transferrable_with_finetune(loss: Loss | None = None, finetunner: Any = None) -> Decorator:
    """`make_transferrable_with_finetune` as a class decorator."""
    return _decorator(lambda model: make_transferrable_with_finetune(model, loss, finetunner))


def transferrable_with_knowledge_distillation(
    loss: Loss | None = None,
    distiller: BasicDistiller | None = None,
    enable_target_training_label: bool = True,
    backbone_loss_weight: Schedulable = 0.1,
    distiller_loss_weight: Schedulable = 0.9,
) -> Decorator:
    """`make_transferrable_with_knowledge_distillation` as a class decorator."""
    weights = (enable_target_training_label, backbone_loss_weight, distiller_loss_weight)
    return _decorator(lambda model: make_transferrable_with_knowledge_distillation(model, loss, distiller, *weights))


def transferrable_with_domain_adaption(loss: Any = None, adapter: Any = None, *args: Any, **more: Any) -> Decorator:
    """`make_transferrable_with_domain_adaption` as a class decorator: the same arguments without the model."""
    return _decorator(lambda model: make_transferrable_with_domain_adaption(model, loss, adapter, *args, **more))


def _decorator(make: Callable[[nn.Module], TransferrableModel]) -> Decorator:
    """A class that stays one: only what calling it gives is another object, so pickles find it by its name."""

    def decorate(model_class: type[nn.Module]) -> type[nn.Module]:
        class Transferrable(type(model_class)):  # type: ignore[misc]  # whatever metaclass the user has
            def __call__(cls, *args: Any, **kwargs: Any) -> Any:
                try:
                    model = super().__call__(*args, **kwargs)
                except RecursionError:
                    name = model_class.__name__
                    raise UsageError(
                        f"super({name}, self).__init__() finds {name} itself once it is decorated: write "
                        "super().__init__()"
                    ) from None
                return make(model)

        names = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
        made: type[nn.Module] = Transferrable(model_class.__name__, (model_class,), names)
        return made

    return decorate
