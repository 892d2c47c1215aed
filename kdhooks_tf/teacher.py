"""A teacher in TensorFlow: called with ``training=False``, outside of every tape, its variables untouched.

Rules: nothing is set on the model, so there is nothing to forget: no `trainable` flag, no mode. Its forward is not
recorded, so no tape watches its variables, and what it returns is a constant. Layers that it shares with the student
keep the losses that the student's forward left in them. Unless a precision is asked for or its compilation, it
computes where and as its caller's operations would; otherwise loops that run eagerly call a function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any

import tensorflow as tf

from kdhooks.config.model import AskedPrecision, Precision
from kdhooks.criterion import Step
from kdhooks.hooks import Hook
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks_tf.layer_precision import DTYPES, LayerPrecision
from kdhooks_tf.outputs import as_call
from kdhooks_tf.own_function import OwnFunction
from kdhooks_tf.tapes import stop_recording
from kdhooks_tf.teacher_choice import Batch, candidates, fastest, fits, made_up, report_difference
from kdhooks_tf.weighing import outside_branches

FirstInput = Callable[[], AbstractContextManager[Any]]


class Teacher(Hook):
    """One frozen teacher, called as a function of its input.

    Args:
        model: the teacher.
        student: the student, to know which layers are shared.
        precision: what its own layers compute in, ``auto``, or None for the dtype policies that they have.
        compile: whether XLA compiles its forward.

    Attributes:
        first_input: gives the first input of the training data, or None, for as long as its block lasts.
        stands_still: whether its weights stay as they are during an epoch.
    """

    stands_still = True

    def __init__(
        self, model: Any, student: Any, *, precision: AskedPrecision | None = None, compile: bool = False
    ) -> None:
        self.model = model
        self.taps: Any = None
        self.first_input: FirstInput = nullcontext
        self._student = student
        self._precision, self._compile = precision, compile
        self._choice: Choice | None = None
        self._said = False
        self._deciding = RLock()  # replicas of a distribution strategy trace in threads of their own
        self._shared: list[Any] = []
        self._layers = LayerPrecision(())
        self._own: OwnFunction | None = None

    # ---- how it runs -------------------------------------------------------------------------------

    @property
    def choice(self) -> Choice | None:
        """How the teacher runs; None until the first forward, or `settle`, has decided it."""
        return self._choice

    @property
    def chosen(self) -> Choice | None:
        """What ``auto`` became, for a state; None where nothing was left to it, or nothing is decided yet."""
        return self._choice if self._precision == "auto" else None

    def settle(self, value: Any) -> Choice:
        """Decide how the teacher runs, where that is not decided yet.

        Args:
            value: an input of the teacher, on which ``auto`` times its candidates.
        """
        with outside_branches(), stop_recording():
            return self._settled(*as_call(self.model, value))

    def adopt(self, choice: Choice) -> None:
        """Run as was chosen before, in what is left to ``auto``; what the configuration sets stays."""
        if self._precision == "auto" and choice.precision is not None:
            self._own = OwnFunction(self._run, type(self.model).__name__, compile=self._compile)
            self._run_in(choice.precision)
            self._said = True

    def policy_of(self, layer: Any) -> Any:
        """The dtype policy that a layer came with."""
        return self._layers.policy_of(layer)

    def _settled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Choice:
        if self._choice is not None and self._said:
            return self._choice
        with self._deciding:
            if self._choice is None or (not self._said and self._choice.precision in DTYPES):
                with self._example(args, kwargs) as batch, self._losses_kept(every=True):
                    self._decide(batch)
            self._said = True
            return self._choice  # type: ignore[return-value]  # decided by now

    def _decide(self, batch: Batch | None) -> None:
        """Time the candidates, and say how far the chosen one is from full precision."""
        tried: dict[Precision, Any] = {}

        def forward(precision: Precision, batch: Batch) -> Any:
            if precision not in tried:
                tried[precision] = OwnFunction(self._run, type(self.model).__name__, compile=self._compile)
            with self._layers.temporarily(precision):
                return tried[precision](self.taps, None, batch.args, batch.kwargs)

        if self._choice is None:
            if batch is None:
                logger.warning("precision: auto has no batch of numbers to be timed on here: the teacher runs in fp32")
            self._run_in("fp32" if batch is None else fastest(candidates(), forward, batch))
        chosen = self._choice.precision if self._choice is not None else None
        if chosen in DTYPES and batch is not None:
            report_difference(chosen, forward(chosen, batch), forward("fp32", batch), batch)
        self._own = tried.get(chosen or "fp32", self._own)
        self.release()

    def _run_in(self, precision: Precision | None) -> None:
        self._choice = Choice(precision, compile=self._compile)
        self._layers.set(precision)
        self._layers.keep_only(precision)

    @contextmanager
    def _example(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Batch | None]:
        """A batch with numbers: the one that is there, or where a function is traced the first of the training data."""
        if not tf.inside_function():
            yield Batch(args, kwargs, "the first batch")
            return
        with tf.init_scope(), self.first_input() as given:
            batch = (
                None if given is None else Batch(*as_call(self.model, given), "the first batch of the training data")
            )
            yield batch if batch is not None and fits(batch, args, kwargs) else made_up(args, kwargs)

    # ---- events ------------------------------------------------------------------------------------

    def on_train_begin(self) -> None:
        """Find the layers that are the student's as well, and give the others their precision."""
        of_student = {id(layer) for layer in layers_of(self._student)}
        layers = layers_of(self.model)
        self._shared = [layer for layer in layers if id(layer) in of_student]
        asked = self._precision
        own = [] if asked is None else [layer for layer in layers if id(layer) not in of_student]
        self._layers = LayerPrecision(own, casts_once=self.stands_still)
        self._choice, self._said, self._own = None, False, None
        if asked == "auto":
            self._layers.prepare(*candidates())
        else:
            if asked is not None:
                self._layers.prepare(asked)
            self._run_in(asked)
        if self._compile or asked in ("auto", *DTYPES):
            self._own = OwnFunction(self._run, type(self.model).__name__, compile=self._compile)

    def on_epoch_begin(self, epoch: int) -> None:
        """Take in weights that were loaded since."""
        self._layers.refresh()

    def on_epoch_end(self) -> None:
        """The same, for a loop that does not say when an epoch begins."""
        self._layers.refresh()

    def on_train_end(self) -> None:
        """Give every layer its policy back, and take the taps off."""
        self._layers.restore()
        self._shared, self._own = [], None
        self.untap()

    def tap(self) -> Any:
        """What captures the teacher's layers; one for all criteria."""
        if self.taps is None:
            from kdhooks_tf.teacher_taps import TeacherTaps

            self.taps = TeacherTaps(self.model, other=("student", self._student))
        return self.taps

    def untap(self) -> None:
        """Take everything of ours off the teacher."""
        if self.taps is not None:
            self.taps.detach()
            self.taps = None

    def release(self) -> None:
        """Let go of what was captured."""
        if self.taps is not None:
            self.taps.release()

    # ---- a forward ---------------------------------------------------------------------------------

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The teacher's output for an input that the student got, without a gradient."""
        return self._forward(value, None)

    def features(self, value: Any, layers: frozenset[Any], step: Step | None = None) -> None:
        """Capture layers in a forward that ends at the deepest of them."""
        self._forward(value, layers)

    def _forward(self, value: Any, layers: frozenset[Any] | None) -> Any:
        args, kwargs = as_call(self.model, value)
        with outside_branches(), stop_recording():
            self._settled(args, kwargs)
            if self._own is not None and (self._compile or not tf.inside_function()):
                return self._own(self.taps, layers, args, kwargs)
            return self._run(layers, args, kwargs)

    def _run(self, layers: frozenset[Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self.model if self.taps is None else partial(self.taps.run, layers)
        with self._layers.forward(), self._losses_kept(every=self._own is not None):
            return run(*args, **kwargs, training=False)

    @contextmanager
    def _losses_kept(self, *, every: bool = False) -> Iterator[None]:
        """A forward replaces the losses of the layers that it runs: what ``add_loss`` and regularizers gave.

        Args:
            every: of all layers, and not of the shared ones alone: tensors of a function of ours are nobody's.
        """
        with losses_kept(layers_of(self.model) if every else self._shared):
            yield


@contextmanager
def losses_kept(layers: Iterable[Any]) -> Iterator[None]:
    """Within the block layers may run; the losses that they hold are afterwards those of before."""
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_put_losses, layer, list(layer._losses), set(layer._loss_ids))
        yield


def layers_of(model: Any) -> list[Any]:
    """A model and all layers inside of it, each once."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def _put_losses(layer: Any, losses: list[Any], ids: set[int]) -> None:
    layer._losses[:] = losses
    layer._loss_ids.clear()
    layer._loss_ids.update(ids)


def is_built(model: Any) -> bool:
    """Whether a model has its variables."""
    return bool(model.built) and all(tf.is_tensor(one.value) for one in model.weights)
