"""Adapters on the student of one run: made, driven, trained and saved.

What an adapter owns trains as a guest of the loop's optimizer (`kdhooks.torch.guests`), or by steps of its own where
the configuration says ``alternating``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.adaptation import a_distance
from kdhooks.config.layer_taps import LayerTap
from kdhooks.config.model import Named
from kdhooks.criterion import Step
from kdhooks.domains.batches import columns_of, split_target
from kdhooks.domains.criterion import AdaptationCriterion, check_names, has_loss
from kdhooks.errors import CheckpointError, KDHooksError, ModelError
from kdhooks.pairs.bound import Bound, say_made_later
from kdhooks.torch.adaptation import ADAPTERS, Adapter, DomainBatch, adapt_batch_norm
from kdhooks.torch.domains.adversary import Adversary
from kdhooks.torch.domains.both import BothDomains, Domain
from kdhooks.torch.domains.labels import labelled_loss
from kdhooks.torch.domains.predictions import Predictions
from kdhooks.torch.domains.ranks import Together, gathered
from kdhooks.torch.guests import Guests
from kdhooks.torch.outputs import as_call, logits_of
from kdhooks.torch.wrappers import find_layer

HEAD, ENCODER = "head", "encoder"


class Placed:
    """An adapter, and where on the student it looks.

    Attributes:
        adapter: the module.
        taps: the layers whose features it compares.
        parts: the student's own modules that it needs, each with what it is called with.
    """

    def __init__(self, adapter: Adapter, taps: list[LayerTap], parts: Mapping[str, LayerTap]) -> None:
        self.adapter, self.taps, self.parts = adapter, taps, parts
        self.shapes: dict[str, Any] = {}

    def batch(self, domain: Domain) -> DomainBatch:
        """What this adapter looks at in a domain."""
        head, encoder = self.parts.get(HEAD), self.parts.get(ENCODER)
        return DomainBatch(
            tuple(domain.features[tap] for tap in self.taps),
            domain.logits,
            domain.labels,
            None if head is None else domain.arguments[head][0],
            () if encoder is None else domain.arguments[encoder],
        )


class AdaptersAtWork:
    """The adapters of one criterion on the student of one run.

    Args:
        criterion: what the user wrote; it makes errors, and counts steps.
        bound: the run's models.
    """

    def __init__(self, criterion: AdaptationCriterion, bound: Bound) -> None:
        self.criterion, self.bound, self.settings = criterion, bound, criterion.settings
        self.placed = {
            index: self._place(index, named) for index, named in enumerate(self.settings.criterion) if has_loss(named)
        }
        features = [tap for one in self.placed.values() for tap in one.taps]
        arguments = [tap for one in self.placed.values() for tap in one.parts.values()]
        joint = self.settings.joint_forward
        reading: dict[str, Any] = {"joint": joint, "outputs": criterion.outputs, "located": criterion.located}
        self.both = BothDomains(bound.student, features, arguments, **reading)
        self.guests = Guests(bound.student.root, bound.optimizer, "discriminators")
        self.group = Together(bound.student.root)
        self.adversaries: dict[int, Adversary] = {}
        self.kept = Predictions(self.settings.validator_rows if self.settings.validator else 0)
        self._built: list[int] = []
        self._seen: tuple[Step, Domain, Domain] | None = None
        self._computed = False

    # ---- on the student ----------------------------------------------------------------------------

    def _place(self, index: int, named: Named) -> Placed:
        """The adapter of a name, with the layers that it looks at found in the student."""
        options = named.options
        try:
            made = ADAPTERS[named.name](**options["options"])
        except (KDHooksError, TypeError) as error:
            raise self.criterion.problem(index, error) from None
        parts: dict[str, LayerTap] = {}
        for part in (ENCODER, HEAD):
            if options[part] is not None:
                parts[part] = self.criterion.found(
                    self.bound.student, LayerTap(options[part], input=True, path=f"{named.path}.{part}")
                )
        own = {part: find_layer(self.bound.student.root, tap.layer, "student")[1] for part, tap in parts.items()}
        made.attach(own.get(ENCODER), own.get(HEAD))
        return Placed(made, [self.criterion.found(self.bound.student, tap) for tap in options["layers"]], parts)

    def attach(self) -> None:
        """Put hooks on the layers."""
        self.both.attach()

    def detach(self) -> None:
        """Take everything off the student and out of the optimizer."""
        self._seen = None
        self.guests.leave()
        self.bound.student.detach()

    def release(self) -> bool:
        """Let go of a step's features; whether it was a step of training that reversed a gradient."""
        computed, self._computed, self._seen = self._computed, False, None
        self.bound.student.release()
        return computed and self.training

    @property
    def training(self) -> bool:
        """Whether the student is being trained."""
        return bool(self.bound.student.root.training)

    # ---- a step ------------------------------------------------------------------------------------

    def domains(self, step: Step) -> tuple[Domain, Domain]:
        """Both domains' batches at a step, of all ranks that train together; run once."""
        if self._seen is None or self._seen[0] is not step:
            source, target = self.both.at(step)
            group = self.group() if self.settings.gather else None
            if group is not None:
                source, target = gathered(source, group), gathered(target, group)
            self.kept.take(target.logits)
            self._seen = step, source, target
        return self._seen[1:]

    def loss(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of an adapter."""
        one = self.placed[index]
        source, target = map(one.batch, self.domains(step))
        try:
            if index not in self._built:
                self._build(index, source, target)
            value = self._compute(index, source, target)
        except ModelError as error:
            raise self.criterion.problem(index, error) from None
        self._computed |= one.adapter.adversarial
        self.guests.settle()
        self.guests.follow(value)
        return value

    def _compute(self, index: int, source: DomainBatch, target: DomainBatch) -> Tensor:
        adapter, adversary = self.placed[index].adapter, self.adversaries.get(index)
        coefficient = self.settings.reversal(self.criterion.steps)
        if adversary is None:
            value: Tensor = adapter(source, target, coefficient=coefficient)
            return value
        if self.training:
            adversary.train(source, target)
        return adversary.against(source, target, coefficient)

    def measures(self, index: int) -> dict[str, Tensor]:
        """What an adapter measured at its last loss."""
        found = dict(self.placed[index].adapter.measures())
        if self.settings.a_distance and "domain_accuracy" in found:
            found["a_distance"] = a_distance(found["domain_accuracy"])
        return found

    def labelled(self, step: Step) -> Tensor:
        """The cross-entropy of the target's labelled rows."""
        _, target = self.domains(step)
        return labelled_loss(target.logits, target.labels, self.settings.ignore_index)

    # ---- what adapters own -------------------------------------------------------------------------

    def _build(self, index: int, source: DomainBatch, target: DomainBatch) -> None:
        self._make(index, source, target)
        if index not in self.adversaries and self.bound.trains:
            self.guests.add(self._trainable(index))

    def _make(self, index: int, source: DomainBatch, target: DomainBatch) -> None:
        one = self.placed[index]
        one.adapter.build(source, target)
        one.shapes = {"source": _shapes(source), "target": _shapes(target)}
        self._built.append(index)
        if self.settings.alternating and one.adapter.adversarial and self._trainable(index):
            self.adversaries[index] = Adversary(one.adapter, self.criterion.conf, self.group)

    def _trainable(self, index: int) -> list[nn.Parameter]:
        return [parameter for parameter in self.placed[index].adapter.parameters() if parameter.requires_grad]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those that are guests of the loop's optimizer; made for a first batch where there was no loss yet."""
        if not self._built and self.placed:
            self._look()
        for index in self._built:
            if index not in self.adversaries:
                yield from self._trainable(index)

    def _look(self) -> None:
        """Make all adapters for the first batch of the training data, which stands for both domains."""
        with self.bound.first_input() as given:
            if given is None:
                say_made_later("discriminators")
                return
            args, kwargs = as_call(given)
            with torch.enable_grad():
                output = self.bound.student.root(*args, **kwargs)
            both = self.both.read(logits_of(output, self.criterion.outputs), None)
            for index, one in self.placed.items():
                batch = one.batch(both)
                self._build(index, batch, batch)
        self.release()

    # ---- an epoch's end ----------------------------------------------------------------------------

    def predictions(self) -> Any:
        """The logits of the epoch's target batches, on the host; None where none are kept."""
        return self.kept.read()

    def set_statistics(self, loader: Any) -> None:
        """The statistics of BatchNorm over the target's batches."""
        inputs, columns = self.criterion.conf.settings.model.inputs, columns_of(self.settings)
        batches = (split_target(batch, inputs=inputs, input_columns=columns)[0] for batch in loader)
        adapt_batch_norm(self.bound.student.root, ((given,) for given in batches))

    def end_epoch(self) -> None:
        """The next step's predictions are those of another epoch."""
        self.kept.end()

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Shapes, weights and what optimizers keep for them; plain data and tensors."""
        adapters = {
            str(index): {**self.placed[index].shapes, "weights": dict(self.placed[index].adapter.state_dict())}
            for index in self._built
        }
        return {
            "adapters": adapters,
            "slots": self.guests.slots(),
            "adversaries": {str(index): one.state_dict() for index, one in self.adversaries.items()},
            "copies": self.bound.student.copying(),
            "kept": self.kept.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the adapters of a saved run, with their weights and what optimizers kept for them.

        Raises:
            CheckpointError: it is of other adapters, or of other shapes.
        """
        root = self.bound.student.root
        device = next((parameter.device for parameter in root.parameters()), torch.device("cpu"))
        try:
            check_names(state["names"], self.settings)
            self._built, self.adversaries = [], {}
            for number, saved in state["adapters"].items():
                index = int(number)
                self.placed[index] = self._place(index, self.settings.criterion[index])
                self._make(index, *(_like(saved[domain], device) for domain in ("source", "target")))
                self.placed[index].adapter.load_state_dict(saved["weights"])
        except (RuntimeError, ModelError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"the state belongs to another domain adaptation: {reason}") from None
        for number, saved in state["adversaries"].items():
            self.adversaries[int(number)].load_state_dict(saved)
        self.bound.student.copy_as(state["copies"])
        self.kept.restore(state["kept"], device)
        self.guests.leave()
        guests = [one for index in self._built if index not in self.adversaries for one in self._trainable(index)]
        self.guests.add(guests, state["slots"])


def _shapes(batch: DomainBatch) -> dict[str, Any]:
    """What an adapter is made for, as plain data."""
    return {
        "features": [_shape(feature) for feature in batch.features],
        "logits": _shape(batch.logits),
        "labels": None if batch.labels is None else _shape(batch.labels),
        "head_input": None if batch.head_input is None else _shape(batch.head_input),
        "encoder_inputs": len(batch.encoder_inputs),
    }


def _shape(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _like(saved: Mapping[str, Any], device: torch.device) -> DomainBatch:
    """A batch of these shapes, which takes no memory."""

    def zeros(one: Any) -> Tensor:
        return torch.zeros((), dtype=getattr(torch, one[0]), device=device).expand(one[1])

    maybe: Callable[[Any], Any] = lambda one: None if one is None else zeros(one)  # noqa: E731
    return DomainBatch(
        tuple(map(zeros, saved["features"])),
        zeros(saved["logits"]),
        maybe(saved["labels"]),
        maybe(saved["head_input"]),
        (None,) * saved["encoder_inputs"],
    )
