"""Adapters as the unified API takes them: by name, by name with options, or made by their class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdhooks.config.model import Schedulable
from kdhooks.criterion import Step, Term
from kdhooks.errors import ModelError, UsageError
from kdhooks.schedules import Schedule, parse_schedule
from kdhooks.torch.adaptation import Adapter, CACDomainAdversarialLoss
from kdhooks.torch.domains import DomainAdaptationLoss
from kdhooks.torch.segmentation import unet_levels


def create_adapter(name: str, **options: Any) -> dict[str, Any]:
    """An adapter by its name with its options, as `make_transferrable_with_domain_adaption` takes it.

    Args:
        name: one of `kdhooks.torch.adaptation.ADAPTERS`, in any spelling.
        options: as in the section ``domain_adaptation``: ``layer`` or ``layers``, ``weight``, ``encoder``, ``head``,
            and what is the adapter's own.

    >>> create_adapter("DANN", layer="avgpool", hidden_size=256)
    {'DANN': {'layer': 'avgpool', 'hidden_size': 256}}
    """
    return {name: options}


def is_adapter(given: Any) -> bool:
    """Whether something is meant as an adapter, and not as a loss."""
    return isinstance(given, (str, Mapping, list, tuple, Adapter))


def section_of(adapter: Any, backbone: nn.Module) -> dict[str, Any]:
    """The section ``domain_adaptation`` that an adapter stands for.

    Args:
        adapter: a name, a mapping of names to options, a list of both, an instance, or a whole section.
        backbone: whose levels CAC takes where it is told no layers and they are known.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(adapter, Mapping) and "criterion" in adapter:
        return dict(adapter)
    given = adapter if isinstance(adapter, (list, tuple)) else [adapter]
    criterion: list[Any] = []
    for one in given:
        if isinstance(one, Adapter):
            criterion.append({one.name: _options(one, backbone)})
        elif isinstance(one, (str, Mapping)):
            criterion.append(one)
        else:
            kind = one.__name__ if isinstance(one, type) else type(one).__name__
            raise UsageError(
                f"the adapter must be given by name, as in {{'DANN': {{'layer': 'avgpool'}}}}, or be an Adapter, "
                f"not {kind}"
            )
    return {"criterion": criterion}


def _options(adapter: Adapter, backbone: nn.Module) -> dict[str, Any]:
    """The options of an instance, and the layers that it looks at."""
    options = {name: list(one) if isinstance(one, tuple) else one for name, one in adapter.settings.items()}
    if isinstance(adapter, CACDomainAdversarialLoss):
        try:
            levels = unet_levels(backbone)
        except ModelError:
            return options  # the masks alone
        return {**options, "layers": levels.all, "encoder_levels": len(levels.encoder)}
    if adapter.layers[0]:
        raise UsageError(
            f"the adapter {adapter.name!r} looks at a layer: give it by name, as in "
            f"{{{adapter.name!r}: {{'layer': 'avgpool'}}}}"
        )
    return options


class WeightedAdaptation(DomainAdaptationLoss):
    """Adapters under one more weight; labelled rows of the target domain count by the backbone's own loss.

    Args:
        section: ``domain_adaptation``.
        weight: multiplies each adapter's own.
        label_weight: of the target domain's labelled rows.
        loss: of the backbone.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        weight: Schedulable,
        label_weight: Schedulable,
        loss: Callable[[Any, Any], Tensor],
    ) -> None:
        super().__init__(**section)
        outer = parse_schedule(weight, at_least=0.0)
        self._labelled_by = loss
        *adapters, labelled = self.terms
        self.own = [term.weight for term in adapters]
        self.terms: Sequence[Term] = (
            *(replace(term, weight=_product(outer, term.weight)) for term in adapters),
            replace(labelled, name="backbone_target", weight=parse_schedule(label_weight), compute=self._of_labels),
        )

    def _of_labels(self, step: Step) -> Tensor:
        _, target = self._working().domains(step)
        return self._labelled_by(target.logits, target.labels)

    def together(self, values: Sequence[Tensor | None], step: int) -> Tensor | None:
        """The sum of the adapters' losses, each with its own weight; None where there is none at this step."""
        weighted = [own(step) * value for own, value in zip(self.own, values, strict=True) if value is not None]
        return sum(weighted[1:], weighted[0]) if weighted else None


def _product(one: Schedule, other: Schedule) -> Schedule:
    return lambda step: one(step) * other(step)
