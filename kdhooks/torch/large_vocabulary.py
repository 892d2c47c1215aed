"""The criterion of large vocabularies: labels and teacher in one pass over chunks of tokens, without logits.

Rules: the hidden states come from hooks on both models, the heads' weights from the modules that mappings name, and
one pass gives both terms. Of these the first that counts carries the pass's gradient; the other is a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.mappings import LayerTap, hidden_tap
from kdhooks.config.model import Schedulable
from kdhooks.criterion import Step, Term
from kdhooks.errors import LayerError, UsageError
from kdhooks.hooks import Hook
from kdhooks.pairs.bound import Bound, Locate, followed, no_location
from kdhooks.schedules import constant_value, parse_schedule
from kdhooks.torch.layer_mappings import found, tensors_of
from kdhooks.torch.losses import ChunkedDistillationLoss
from kdhooks.torch.losses.chunked_heads import Head
from kdhooks.torch.outputs import constant
from kdhooks.torch.student_loss import NO_LOSS
from kdhooks.torch.taps import Taps, is_ours
from kdhooks.torch.wrappers import find_layer, inside


class LargeVocabularyDistillationLoss(Hook):
    """CE of the labels and a divergence from the teacher over a vocabulary, without (tokens x vocabulary) buffers.

    ``w[0] CE(student, target) + w[1] T² D(teacher, student)`` of the logits ``hidden @ weightᵀ + bias`` of both heads,
    as `kdhooks.torch.losses.chunked_distillation` computes them. What goes into a head is captured in the models' own
    forwards, and the teacher's ends there. The labels are the `target` that `on_after_compute_loss` is handed, and the
    loop's own loss has weight 0: a zero, `loss.new_zeros(())`, may be handed in its place. With `add_origin_loss` it
    is the other way round: the loop's own loss has the weight w[0], and the pass has the divergence alone.

    Args:
        student_head: the name of the student's head, a linear layer over the vocabulary.
        teacher_head: that of the teacher; None is the same name.
        student_hidden: the layer that gives the hidden states [N, T, D], or ``[layer, selector]``; None is what goes
            into the head. A student whose forward skips its head in training names the layer before it here.
        teacher_hidden: the same of the teacher.
        temperature: T of the divergence, a number or a schedule.
        loss_types: ``CE``, then ``KL``, ``JSD`` or ``reverse_KL``.
        loss_weights: of both, numbers or schedules.
        add_origin_loss: whether the labels' loss is the loop's own.
        shift: whether the label of a token stands one place behind it, as causal models have it: the last hidden state
            and the first label are left out.
        ignore_index: the label of tokens that don't count, in either term.
        vocabulary: what to compare where the vocabularies differ; see `chunked_distillation`.
        logit_scale: multiplies the student's logits.
        teacher_logit_scale: multiplies the teacher's.
        softcap: c of ``c tanh(z / c)`` on the student's scaled logits.
        teacher_softcap: the same of the teacher.
        chunk_size: tokens of one chunk; None takes as many as fit a fixed size of memory.
        teacher: which one of several is followed.

    Raises:
        UsageError: an unknown loss, or an option out of its range.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> def model(width):
        ...     return torch.nn.Sequential(torch.nn.Embedding(100, width), torch.nn.Linear(width, 100))
        >>> student, teacher = model(8), model(16)
        >>> distiller = Distillation(student_model=student, teacher_model=teacher)
        >>> distiller.criterion = LargeVocabularyDistillationLoss("1", temperature=2.0, shift=True)
        >>> tokens = torch.randint(100, (2, 6))
        >>> with distiller:
        ...     output = student(tokens)
        ...     distiller.on_after_compute_loss(tokens, output, output.new_zeros(()), target=tokens).backward()
        >>> sorted(distiller.losses)
        ['CE', 'KL', 'none', 'total']
    """

    needs_teacher = True

    def __init__(
        self,
        student_head: str,
        teacher_head: str | None = None,
        *,
        student_hidden: Any = None,
        teacher_hidden: Any = None,
        temperature: Schedulable = 1.0,
        loss_types: Sequence[str] = ("CE", "KL"),
        loss_weights: Sequence[Schedulable] = (0.5, 0.5),
        add_origin_loss: bool = False,
        shift: bool = False,
        teacher: str | None = None,
        **options: Any,
    ) -> None:
        given = {
            **{"student_head": student_head, "teacher_head": teacher_head, "student_hidden": student_hidden},
            **{"teacher_hidden": teacher_hidden, "temperature": temperature, "loss_types": loss_types},
            **{"loss_weights": loss_weights, "add_origin_loss": add_origin_loss, "shift": shift, "teacher": teacher},
        }
        self._given: dict[str, Any] = {**given, **options}
        probe = ChunkedDistillationLoss(loss_types=loss_types, loss_weights=[0.5] * len(loss_weights), **options)
        self.loss_types, self._options = probe.loss_types, options
        self._temperature = parse_schedule(temperature, above=0.0)
        weights = [parse_schedule(weight, at_least=0.0) for weight in loss_weights]
        zero = parse_schedule(0.0)
        self.add_origin_loss, self.shift, self._named = bool(add_origin_loss), bool(shift), teacher
        self.student_weight = weights[0] if self.add_origin_loss else zero
        self.student_label = self.loss_types[0] if self.add_origin_loss else NO_LOSS
        self._weights = (zero if self.add_origin_loss else weights[0], weights[1])
        self._heads = student_head, student_head if teacher_head is None else teacher_head
        self._taps = hidden_tap(given, "student")[1], hidden_tap(given, "teacher")[1]
        self.locate: Locate = no_location
        self._bound: Bound | None = None
        self._name = ""
        self._found: tuple[Step, dict[str, Tensor]] | None = None
        self._modules: list[nn.Module] = []
        kinds = range(1 if self.add_origin_loss else 0, 2)
        self.terms: Sequence[Term] = tuple(map(self._term, kinds))

    # ---- events ------------------------------------------------------------------------------------

    def bind(self, bound: Bound) -> None:
        """Take the models of a run; `on_train_begin` comes next."""
        self._bound = bound

    def on_train_begin(self) -> None:
        """Put hooks on the layers of both models."""
        if self._bound is None:
            raise UsageError("this criterion works in a Distillation: set distiller.criterion")
        self._name = followed(self._bound, self._named)
        sides = (self._bound.student, self._bound.teachers[self._name].tap())
        self._taps = self._known(self._taps[0], sides[0]), self._known(self._taps[1], sides[1])
        self._modules = [self._module(*one) for one in zip(self._heads, sides, ("student", "teacher"), strict=True)]
        sides[0].attach([self._taps[0].key])
        if constant_value(self._weights[1]) != 0:
            sides[1].attach([self._taps[1].key])

    def teacher_looks(self, name: str) -> list[tuple[LayerTap, str]]:
        """The teacher's last hidden states, once the run has begun, where the divergence can count."""
        return [(self._taps[1], "last")] if name == self._name and constant_value(self._weights[1]) != 0 else []

    def on_after_compute_loss(self) -> None:
        """Let go of all hidden states; the loss has what it needs."""
        self._found = None
        if self._bound is not None:
            self._bound.student.release()
            self._bound.teachers[self._name].release()

    def on_train_end(self) -> None:
        """Take everything off both models."""
        bound, self._bound, self._found, self._modules = self._bound, None, None, []
        if bound is not None:
            bound.student.detach()
            if self._name in bound.teachers:
                bound.teachers[self._name].untap()

    def __deepcopy__(self, memo: Any) -> LargeVocabularyDistillationLoss:
        twin = type(self)(**self._given)
        twin.locate = self.locate
        return twin

    # ---- a step ------------------------------------------------------------------------------------

    def _term(self, kind: int) -> Term:
        name = self.loss_types[kind]
        layer = (lambda: self._taps[1].key) if kind else (lambda: None)
        return Term(name, self._weights[kind], lambda step: self._terms_of(step)[name], layer)

    def _terms_of(self, step: Step) -> dict[str, Tensor]:
        """Both terms of this step, unweighted; the one that carries the gradient has that of both."""
        if self._found is None or self._found[0] is not step:
            self._found = step, self._pass(step)
        return self._found[1]

    def _pass(self, step: Step) -> dict[str, Tensor]:
        weights = [weight(step.index) for weight in self._weights]
        temperature = self._temperature(step.index)
        if temperature <= 0:
            raise UsageError(f"the temperature must be above 0, and is {temperature} at step {step.index}")
        carrier = 1 if weights[1] else 0
        criterion = ChunkedDistillationLoss(
            temperature=temperature,
            loss_types=self.loss_types,
            loss_weights=[weight / weights[carrier] for weight in weights],
            **self._options,
        )
        hidden, target, mask = self._student(step, weights[0] != 0)
        head = self._head(0, "student")
        theirs = (self._teacher(step), self._head(1, "teacher")) if weights[1] else (hidden.detach(), head)
        held = step.counted(None, self._name, self._taps[1].key)  # a stored row has nothing at positions of padding
        if held is not None:
            held = held[..., :-1] if self.shift else held
            mask = held if mask is None else held & mask.to(held.device, torch.bool)
        total = criterion(hidden, head, *theirs, target=target, mask=mask)
        terms = dict(criterion.losses)
        name = self.loss_types[carrier]
        terms[name] = terms[name] + (total - total.detach())  # a zero with the gradient of the whole pass
        return terms

    def _student(self, step: Step, labels: bool) -> tuple[Tensor, Any, Any]:
        """Hidden states, labels and mask of the student's tokens."""
        if self._bound is None:
            raise UsageError("on_train_begin() comes before the first loss")
        hidden = self._tensor(self._taps[0], self._bound.student)
        target = step.target if isinstance(step.target, Tensor) else None
        if labels and target is None:
            raise UsageError(
                "LargeVocabularyDistillationLoss computes the CE of the labels itself: hand target to "
                "on_after_compute_loss, or set add_origin_loss and let the loop's own loss be the CE"
            )
        mask = step.mask if isinstance(step.mask, Tensor) else None
        if not self.shift:
            return hidden, target, mask
        target, mask = (None if one is None else one[..., 1:] for one in (target, mask))
        return hidden[..., :-1, :], target, mask

    def _teacher(self, step: Step) -> Tensor:
        hidden = constant(self._tensor(self._taps[1], step.features(self._name)))
        return hidden[..., :-1, :] if self.shift else hidden

    def _tensor(self, tap: LayerTap, taps: Any) -> Tensor:
        try:
            return tensors_of(tap, taps, "last")[0]
        except LayerError as error:
            raise self.locate(tap.path, error.message, error.advice) from None

    # ---- heads -------------------------------------------------------------------------------------

    def _known(self, tap: LayerTap, taps: Taps) -> LayerTap:
        try:
            return found(tap, taps)
        except LayerError as error:
            raise self.locate(tap.path, error.message, error.advice) from None

    def _module(self, name: str, taps: Taps, side: str) -> nn.Module:
        try:
            return inside(find_layer(taps.model, name, taps.role)[1])
        except LayerError as error:
            raise self.locate(f"{side}_head", error.message, error.advice) from None

    def _head(self, index: int, side: str) -> Head:
        """The weight and bias that the head computes with; refused where it computes anything else."""
        module: Any = self._modules[index]
        own = [hook for hooks in (module._forward_hooks, module._forward_pre_hooks) for hook in hooks.values()]
        if hasattr(module, "_get_fsdp_state") or type(getattr(module, "weight", None)).__name__ == "DTensor":
            raise self._refused(side, "has a weight that is sharded over processes", "a head outside of fully_shard")
        linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        if not linear or not all(map(is_ours, own)):
            kind = type(module).__name__
            raise self._refused(side, f"is {kind} with a forward or hooks of its own", "a plain nn.Linear")
        return Head(module.weight, module.bias)

    def _refused(self, side: str, message: str, need: str) -> Exception:
        name = self._heads[0 if side == "student" else 1]
        advice = f"Its weight is multiplied in chunks: it must be {need}."
        return self.locate(f"{side}_head", f"the {side}'s head {name!r} {message}", advice)
