"""Distillation in an unchanged skorch net: a callback.

skorch has no event between the loss and its backward, so the terms are added where the net's criterion returns: by an
ordinary forward hook, which is there between the beginning and the end of the training loop only. Rules: nothing of the
net is replaced for longer than that, also where training breaks off; a clone has the same teacher and no state; what is
pickled has no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

from kdhooks.config import DistillationConf
from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import UsageError
from kdhooks.integrations.forwards import Ends, Forward, trains
from kdhooks.integrations.saved import checked, written
from kdhooks.messages import logger, warnings_only
from kdhooks.torch.outputs import map_tensors
from kdhooks.torch.taps import ForwardHook

KIND = "kdhooks with skorch"
ATTRIBUTE = "distillation_"


class DistillationCallback(Callback):  # type: ignore[misc]  # skorch has no types
    """Adds a teacher's terms to the loss of a `skorch.NeuralNet` while it trains.

    ``train_loss`` is then the total, ``valid_loss`` stays the criterion's own. The components stand in ``net.history``,
    by batch and as means by epoch, and so in the table that skorch prints.

    What the criterion sees are the student's logits: so with ``CrossEntropyLoss`` the module returns logits, and with
    the ``NLLLoss`` of a `skorch.NeuralNetClassifier` probabilities, whose logarithm serves as well as logits. A teacher
    may return either: outputs that are probabilities, none below 0 and each row's sum 1, are taken for that.

    For checkpoints put it before `skorch.callbacks.Checkpoint` and give that one ``f_distillation="distillation.pt"``;
    `skorch.callbacks.LoadInitState` then goes on with schedules, matchers and generators as they were.

    Args:
        teacher_model: an ``nn.Module``, a fitted `skorch.NeuralNet`, or a list or mapping of these; not copied by
            `sklearn.base.clone`. None for criteria that need none.
        conf: a path of a YAML file, a dict, a `DistillationConf`, or None for the defaults.
        criterion: a function of no argument that makes the criterion, or the list of them, which overrides the
            configuration's; a function, since nets are cloned and pickled.
        module: the attribute of the net whose outputs the criterion judges.
        prefix: stands before the components' names in the history.
        record_batches: whether the components of each batch are kept in the history.

    Attributes:
        distiller_: the `Distillation` of the last training, or None.

    Raises:
        UsageError: when training begins: a teacher that is a class or not fitted, a criterion that is no module.

    Example:
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetClassifier
        >>> from kdhooks.integrations.skorch import DistillationCallback
        >>> teacher = torch.nn.Linear(4, 3)
        >>> net = NeuralNetClassifier(
        ...     torch.nn.Linear(4, 3), criterion=torch.nn.CrossEntropyLoss, max_epochs=1, verbose=0,
        ...     callbacks=[DistillationCallback(teacher)],
        ... )
        >>> x, y = np.random.randn(20, 4).astype("float32"), np.arange(20) % 3
        >>> row = net.fit(x, y).history[-1]
        >>> sorted(name for name in row if name.startswith("kd_"))
        ['kd_CE', 'kd_KL', 'kd_total']
    """

    def __init__(
        self,
        teacher_model: Any = None,
        conf: DistillationConf | Mapping[str, Any] | str | Path | None = None,
        criterion: Callable[[], Any] | None = None,
        module: str = "module",
        prefix: str = "kd_",
        record_batches: bool = True,
    ) -> None:
        self.teacher_model, self.conf, self.criterion = teacher_model, conf, criterion
        self.module, self.prefix, self.record_batches = module, prefix, record_batches
        self.distiller_: Distillation | None = None
        self.state_: dict[str, Any] | None = None
        self.forward_: Forward | None = None
        self.attached_ = False

    # ---- skorch's events ---------------------------------------------------------------------------

    def initialize(self) -> DistillationCallback:
        """The net begins anew, and so do we."""
        self.distiller_ = self.state_ = self.forward_ = None
        return self

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Be found by ``f_distillation``, and wait for the training loop."""
        other = getattr(net, ATTRIBUTE, self)
        if other is not self and any(one is other for _, one in net.callbacks_):
            raise UsageError("a net has one DistillationCallback: give one the criteria and the teachers of both")
        vars(net)[ATTRIBUTE] = self
        _Last.join(net, self)

    def on_epoch_begin(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """An epoch begins, with the number that it has in the history, from 0."""
        if self.distiller_ is not None and self.attached_:
            self.distiller_.on_epoch_begin(len(net.history) - 1)

    def on_batch_end(self, net: Any, batch: Any = None, training: Any = None, **kwargs: Any) -> None:
        """The optimizer has stepped, where a batch was trained."""
        self.forward_ = None
        if self.distiller_ is not None and self.attached_ and training:
            self.distiller_.on_step_end()
            if self.record_batches:
                for name, value in self.distiller_.losses.items():
                    net.history.record_batch(f"{self.prefix}{name}", value)

    def on_epoch_end(self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Record the epoch's means."""
        if self.distiller_ is not None and self.attached_:
            with warnings_only():  # skorch prints the table
                self.distiller_.on_epoch_end()
            for name, value in self.distiller_.history[-1]["losses"].items():
                net.history.record(f"{self.prefix}{name}", value)

    # ---- the state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of ours; ``net.save_params(f_distillation=...)`` writes it.

        Raises:
            UsageError: nothing was trained yet.
        """
        live = self.distiller_ is not None and self.attached_
        state = self.distiller_.state_dict() if live and self.distiller_ is not None else self.state_
        if state is None:
            raise UsageError("there is no state of a distillation yet: net.fit(...) comes first")
        return written(KIND, {"distillation": state})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there when training begins; `skorch.callbacks.LoadInitState` calls it.

        Raises:
            CheckpointError: not a state of ours, or of a newer version; when training begins, of another configuration.
        """
        found = dict(checked(state, KIND, "this")["distillation"])
        if self.distiller_ is not None and self.attached_:
            self.distiller_.load_state_dict(found)
        else:
            self.state_ = found

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        if self.distiller_ is not None and self.attached_:
            state["state_"] = _without_generators(self.distiller_.state_dict())
        return {**state, "distiller_": None, "forward_": None, "attached_": False}

    def __sklearn_clone__(self) -> DistillationCallback:
        from sklearn.base import clone

        params = {name: clone(value, safe=False) for name, value in vars(self).items() if not name.endswith("_")}
        return type(self)(**{**params, "teacher_model": self.teacher_model})

    # ---- the training loop -------------------------------------------------------------------------

    @contextmanager
    def attached(self, net: Any) -> Iterator[None]:
        """Within the block the net's criterion returns the total loss."""
        criterion, student = net.criterion_, getattr(net, f"{self.module}_")
        if hasattr(self.criterion, "terms"):
            kind = type(self.criterion).__name__
            raise UsageError(f"criterion is a {kind}: give a function that makes it, since nets are cloned and pickled")
        if not isinstance(criterion, nn.Module):
            raise UsageError(f"the net's criterion is a {type(criterion).__name__}: distillation needs an nn.Module")
        distiller = self._distillation(net, student)
        with distiller:
            self.distiller_, self.attached_ = distiller, True
            handles = [
                student.register_forward_hook(Ends(self._keep), with_kwargs=True),
                criterion.register_forward_hook(_Judged(self._total)),
                *(
                    one.register_forward_hook(_Logarithm())
                    for one in teachers_by_name(distiller.teacher_model).values()
                ),
            ]
            try:
                yield
                if distiller.step == 0:
                    logger.warning(
                        "nothing was distilled: the net's criterion was not called with what its module returned"
                    )
            finally:
                for handle in handles:
                    handle.remove()
                self.forward_, self.attached_ = None, False
                self.state_ = _without_generators(distiller.state_dict())
                with warnings_only():
                    distiller.on_train_end()

    def _distillation(self, net: Any, student: nn.Module) -> Distillation:
        distiller = Distillation(self.conf, student_model=student)
        distiller.teacher_model = self._teachers(net.device)
        if self.criterion is not None:
            distiller.criterion = self.criterion()
        distiller.optimizer = getattr(net, "optimizer_", None)
        if self.state_ is not None:
            state = self.state_ if "rng" in self.state_ else {**self.state_, "rng": distiller.backend.rng_state()}
            distiller.load_state_dict(state)
        return distiller

    def _teachers(self, device: Any) -> Any:
        found = {name: _module(one) for name, one in teachers_by_name(self.teacher_model).items()}
        for one in found.values():
            if device is not None and all(tensor.device.type == "cpu" for tensor in one.parameters()):
                one.to(device)
        if not found:
            return None
        return found if isinstance(self.teacher_model, (Mapping, list, tuple)) else next(iter(found.values()))

    def _keep(self, forward: Forward) -> None:
        self.forward_ = forward

    def _total(self, judged: Any, target: Any, loss: Tensor) -> Tensor:
        forward, self.forward_ = self.forward_, None
        if forward is None or self.distiller_ is None:
            return loss
        labels = target if isinstance(target, Tensor) and not target.is_floating_point() else None
        total: Tensor = self.distiller_.on_after_compute_loss(forward.input, judged, loss, target=labels)
        return total


class _Last(Callback):  # type: ignore[misc]
    """The last one whose training begins: puts our block around the training loop that comes next, and is gone.

    An event that another callback breaks off must not leave us on the net, so nothing is done before all had theirs.
    """

    def __init__(self, callback: DistillationCallback) -> None:
        self.callback = callback

    @classmethod
    def join(cls, net: Any, callback: DistillationCallback) -> None:
        """Stand behind all callbacks, in the list that skorch goes through right now."""
        net.callbacks_[:] = [pair for pair in net.callbacks_ if not isinstance(pair[1], cls)]
        net.callbacks_.append(("kdhooks", cls(callback)))

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        net.callbacks_[:] = [pair for pair in net.callbacks_ if pair[1] is not self]

        def fit_loop(*args: Any, **options: Any) -> Any:
            del vars(net)["fit_loop"]
            with self.callback.attached(net):
                return net.fit_loop(*args, **options)

        vars(net)["fit_loop"] = fit_loop


class _Judged(ForwardHook):
    """On the net's criterion: what it returns while a student trains becomes the total."""

    def __init__(self, total: Any) -> None:
        self._total = total

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._total(args[0], args[1] if len(args) > 1 else None, output) if trains() and args else None


class _Logarithm:
    """On a teacher: probabilities become their logarithm, as skorch's own classifier does before its ``NLLLoss``.

    Whether they are probabilities is found out at the first output, which is read on the host. It is none of the hooks
    that change nothing, so a store of outputs takes the teacher with it for another one.
    """

    __deepcopy__, __reduce__ = ForwardHook.__deepcopy__, ForwardHook.__reduce__

    def __init__(self) -> None:
        self._found: bool | None = None

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._found is None:
            self._found = isinstance(output, Tensor) and _are_probabilities(output)
        return map_tensors(lambda one: torch.log(one + torch.finfo(one.dtype).eps), output) if self._found else None


def _are_probabilities(output: Tensor) -> bool:
    if output.ndim < 2 or output.shape[1] < 2 or not output.is_floating_point():
        return False
    rows = output.detach().float()
    return bool((rows >= 0).all() and ((rows.sum(1) - 1).abs() < 1e-2).all())


def _module(teacher: Any) -> nn.Module:
    """The module of a teacher, which may be a fitted net."""
    if isinstance(teacher, type):
        raise UsageError(f"the teacher is a class, {teacher.__name__}: give a trained instance of it")
    if isinstance(teacher, nn.Module):
        return teacher
    module = getattr(teacher, "module_", None)
    if isinstance(module, nn.Module):
        return module
    raise UsageError(
        f"the teacher {type(teacher).__name__} is neither an nn.Module nor a fitted net: call its fit(...), or "
        "initialize() and load_params(...), first"
    )


def _without_generators(state: dict[str, Any]) -> dict[str, Any]:
    """A state for going on in the same process, whose generators have gone on too."""
    return {name: value for name, value in state.items() if name != "rng"}
