"""`Distillation`, the object that a user holds: joins the rooms and knows no framework.

What happens at a step is in `run` and `criterion`; what a framework does is behind `backend`; what
must be undone is a `Hook`. This file only says when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from kdhooks import messages
from kdhooks.check import CheckReport, examine
from kdhooks.config import DistillationConf
from kdhooks.criterion import Criterion, Step, as_criteria, teachers_by_name, with_own_loss
from kdhooks.domains import adapts, check_target, distils
from kdhooks.errors import UsageError
from kdhooks.history import History
from kdhooks.hooks import RemovableHandle, UserHooks
from kdhooks.messages import logger
from kdhooks.pairs.stored import stored_features
from kdhooks.recording import Recording, ending
from kdhooks.replayed_epochs import ReplayedEpochs
from kdhooks.run import Run


class Distillation(Recording):
    """Knowledge distillation for the training loop that you already have.

    Args:
        conf: the path of a YAML file, a dict of the same form, a `DistillationConf`, or None for the
            defaults.
        student_model: the model that learns; the user's own object, never wrapped or replaced.
        teacher_model: one model, a list of models, or a mapping of models by name.

    Attributes:
        pretrained_model: a model, a state_dict or a file whose weights the student begins with; None takes the
            YAML's ``finetune.pretrained``.
        optimizer: what `fit()` uses and the history reads the learning rate from; None takes the YAML's.
        train_dataloader: what `fit()` trains on; None takes the YAML's.
        eval_dataloader: what it evaluates on; None takes the YAML's.
        target_dataloader: the target domain's batches, for `fit()`.
        target_eval_dataloader: those for validators and AdaBN.
        train_func: called by `fit()` with the student instead of the built-in loop; it calls the hooks.
        eval_func: called with the student in evaluation mode; returns a number or a mapping of numbers.

    Example:
        >>> import torch
        >>> from kdhooks import Distillation
        >>> student, teacher = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
        >>> with Distillation(student_model=student, teacher_model=teacher) as distiller:
        ...     output = student(x)
        ...     loss = torch.nn.functional.cross_entropy(output, y)
        ...     loss = distiller.on_after_compute_loss(x, output, loss)
        ...     loss.backward()
        >>> sorted(distiller.losses)
        ['CE', 'KL', 'total']
    """

    def __init__(
        self,
        conf: str | Path | Mapping[str, Any] | DistillationConf | None = None,
        *,
        student_model: Any = None,
        teacher_model: Any = None,
    ) -> None:
        messages.speak_by_default()
        super().__init__(conf, student_model=student_model, teacher_model=teacher_model)
        self._user_hooks = UserHooks()

    def on_train_begin(self, dataloader: Any = None, *, optimizer: Any = None) -> None:
        """Attach to the models and start counting; a second call starts anew.

        Args:
            dataloader: the batches that will come; kept as `train_dataloader` where none is set.
            optimizer: the student's, which trains matchers too; found by itself where it is not named.

        Raises:
            UsageError: no student is set.
            ConfigError: the configuration names something that this framework does not have.
        """
        if self._student is None:
            raise UsageError("no student is set: distiller.student_model = ... comes before on_train_begin()")
        if self._run is not None:
            self._run.end()
        self.optimizer = optimizer if optimizer is not None else self.optimizer
        if dataloader is not None and self.train_dataloader is None:
            self.train_dataloader = dataloader
        backend, settings = self.backend, self.conf.settings
        self._end_record("stopped")  # of a run that was never ended
        recorder = self._make_recorder()
        criteria = self.summed()
        finetuning = backend.finetuning(self, self._transferred, self._pending_state is not None)
        if finetuning is not None:  # before a teacher that begins as the student is made
            self._transferred, criteria = finetuning.done, (*criteria, *finetuning.criteria)
        if self._pending_state is None:
            self._look_before(recorder)
        teachers = backend.teachers(teachers_by_name(self._teacher), self._student, self.conf)
        self._run = Run(backend, criteria, self._student, teachers, epoch=settings.distillation.train.start_epoch)
        self._run.ledger, self._profiled = self._ledger, None
        try:
            backend.bind(criteria, self._student, teachers, self)
            companions = backend.companions(self)
            self._run.begin(*companions, ReplayedEpochs(self), *(() if finetuning is None else (finetuning,)))
            if self._pending_state is not None:
                state, self._pending_state = self._pending_state, None
                self._run.load_state_dict(state)
                self._continue_record(recorder, self._run.clock.step)
            self._recorder = recorder
            self._user_hooks.emit("on_train_begin", self)
            self._ledger.began(backend.stopwatch(self._student))
            if not self._fits_by_itself:
                self.record_begins()
        except BaseException:  # a `with` block that fails to begin is never left
            self._run.end()
            raise

    def on_epoch_begin(self, epoch: int) -> None:
        """Say which epoch begins; optional, epochs are counted from ``start_epoch`` otherwise."""
        self._running("on_epoch_begin").begin_epoch(epoch)
        self._user_hooks.emit("on_epoch_begin", self)

    def on_step_begin(self, step: int) -> None:
        """Give the number that schedules use for the next loss; optional, calls are counted otherwise."""
        self._running("on_step_begin").begin_step(step)
        self._user_hooks.emit("on_step_begin", self)

    def on_after_compute_loss(
        self,
        input: Any,
        student_output: Any,
        student_loss: Any,
        teacher_output: Any = None,
        *,
        target: Any = None,
        mask: Any = None,
        teacher_input: Any = None,
        target_input: Any = None,
        target_labels: Any = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        teacher_features: Any = None,
        feature_mask: Any = None,
        scale: tuple[Any, Any] | None = None,
    ) -> Any:
        """The total loss: the user's own and what the student should learn from the teacher.

        Call it before dividing for gradient accumulation. Nothing here waits for the device.

        Args:
            input: what the student got: a tensor (one argument), a list or tuple (positional
                arguments) or a mapping (keyword arguments). The teacher gets the same.
            student_output: what the student returned, with its graph.
            student_loss: the loop's own loss, a scalar tensor; labelled ``loss_types[0]``, never
                recomputed.
            teacher_output: the teacher's output, where the caller has it already; the teacher does
                not run. With several teachers a list, or a mapping by name.
            target: labels, integers shaped like the logits without their class axis, for losses that
                look at labels and to leave out positions of `ignore_index`.
            mask: positions that count (true) and don't (false), of the same shape.
            teacher_input: where the teacher needs another input than the student.
            target_input: the target domain's batch, for domain adaptation, as the student takes it; it may have
                another number of rows.
            target_labels: its labels where some rows have one, `ignore_index` (-100) where they don't.
            sample_ids: one key a row, for stored teacher outputs: without a store it has no effect.
            sample_weight: factors of rows or positions on the teacher's terms, in TensorFlow, as Keras' losses take it.
            teacher_features: the teacher's hidden features, where the caller has them already: a mapping from the
                layers of the layer mappings (``layer:input`` for an input) to tensors, or for several teachers such a
                mapping by name. The teacher does not run for them, and need not be set.
            feature_mask: positions of hidden features that count, [N, T], where a criterion names no `feature_mask`;
                None is `mask`. A feature that it does not fit is compared whole.
            scale: two scalars, numbers or tensors, for a loop that adds up parts of a batch: this part's share of the
                batch, by which every term but `student_loss` is multiplied, and its share for terms on hidden
                features. The components in `losses` are multiplied as well. None is 1.

        Returns:
            A scalar tensor, ready for ``backward()``. With every distillation weight 0 and a student's
            weight of 1 it is the very `student_loss`.

        Raises:
            UsageError: called before `on_train_begin`.
            ModelError: outputs without logits, or of shapes that don't fit.
        """
        run = self._running("on_after_compute_loss")
        check_target(run.objective.criteria, target_input, target_labels)
        given = (input, student_output, teacher_output, target, mask, teacher_input, sample_ids, sample_weight)
        captured = stored_features(teacher_features, tuple(run.teachers))
        others: dict[str, Any] = {"teachers": run.teachers, "captured": captured, "ledger": run.ledger}
        others |= {"feature_mask": feature_mask, "scale": scale}
        step = Step(run.clock.now(), *given, target_input, target_labels, **others)
        total = run.loss(step, student_loss)
        self._user_hooks.emit("on_after_compute_loss", self)
        return total

    def on_step_end(self) -> None:
        """After the optimizer's step; optional."""
        self._running("on_step_end").end_step()
        self._user_hooks.emit("on_step_end", self)

    def on_epoch_end(self, *, batches: int | None = None) -> None:
        """Close the epoch: record its mean losses, and evaluate where there is something to do it with.

        Args:
            batches: where `scale` was given, how many batches this epoch's losses were parts of.
        """
        run = self._running("on_epoch_end")
        record = run.end_epoch(self._learning_rate(), self._judge_epoch, batches)
        self._record_epoch(record)
        if not self._fitting:  # the built-in loop has its own progress bar and table
            logger.info("%s", History([record]).table())
        self._user_hooks.emit("on_epoch_end", self)

    def on_train_end(self) -> None:
        """Detach everything: nothing of ours stays on either model. A second call does nothing."""
        run = self._run
        if run is None or not run.attached:
            return
        try:
            if not self._failed:
                self._set_last_statistics(run)
            self._user_hooks.emit("on_train_end", self)
        except BaseException as error:
            self._end_record(ending(error))
            raise
        finally:
            run.end()
        if run.history and self.writes_files:
            asked_for = self._fitting or self.conf.settings.tuning.workspace is not None
            run.history.show(self.conf.workspace if asked_for else None)
        if not self._fitting:  # fit() has the best weights to put back first
            self._finish_record()

    def register_hook(self, event: str, function: Callable[[Distillation], object]) -> RemovableHandle:
        """Call ``function(distiller)`` on an event; the handle's ``remove()`` takes it off again.

        Raises:
            UsageError: unknown event, or a function that can't be called with one argument.
        """
        return self._user_hooks.add(event, function)

    def __enter__(self) -> Distillation:
        if self._run is None or not self._run.attached:
            self.on_train_begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._failed = kind is not None
        if error is not None:
            self._end_record(ending(error))
        try:
            self.on_train_end()
        finally:
            self._failed = False

    def fit(self) -> Any:
        """Train the student with `train_func`, or with the loop that the YAML describes, and evaluate.

        Returns:
            The user's own student, with the best weights loaded where something was evaluated.

        Raises:
            UsageError, ConfigError, DataError, ModelError: something is missing or doesn't fit.
            NonFiniteLossError, CheckpointError: of the built-in loop.
        """
        if self._student is None:
            raise UsageError("no student is set: distiller.student_model = ... comes before fit()")
        try:
            self._train()
        except BaseException as error:
            self._end_record(ending(error))
            raise
        self._finish_record()
        return self._student

    __call__ = fit

    def _train(self) -> None:
        """Train, evaluate, detach, and put the best weights back."""
        self._fitting = True
        try:
            if self.train_func is not None:
                self.train_func(self._student)
            else:
                self.backend.train(self)
            self._judge_last_epoch()
        finally:
            try:
                self.on_train_end()  # still fitting: the curves go to the run's folder
            finally:
                self._fitting = False
        if self._run is not None and self._run.best.weights is not None:
            self.backend.restore(self._student, self._run.best.weights)

    def check(self, dataloader: Any = None, *, batches: int = 8) -> CheckReport:
        """Look for what would waste a night before a long run; changes nothing.

        Args:
            dataloader: batches as `fit()` takes them; None takes `train_dataloader` or the YAML's.
            batches: how many to look at.

        Returns:
            A report that prints as text; ``report.ok`` is False where something is surely wrong.
        """
        if self._student is None:
            raise UsageError("no student is set: distiller.student_model = ... comes before check()")
        return examine(self.backend.observe(self, dataloader, batches))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of ours: counters, history, best weights, criteria, RNG states.

        The user's own student and optimizer are not in it. Only plain data and tensors are, so that
        ``torch.load(..., weights_only=True)`` reads it.
        """
        if self._run is None:
            raise UsageError("there is no run yet: on_train_begin() comes before state_dict()")
        return self._run.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a saved run: now, or at the next `on_train_begin` where none is under way.

        Raises:
            CheckpointError: not a state of ours, of a newer version, or of another configuration.
        """
        if self._run is not None and self._run.attached:
            self._run.load_state_dict(state)
            self._recorder.continues(self._run.clock.step)
        else:
            self._pending_state = state

    def summed(self, *, of_target: bool = True) -> tuple[Criterion, ...]:
        """The criteria of a run: what was set or ``distillation`` names, and what ``domain_adaptation`` adds.

        Args:
            of_target: whether those that need batches of a target domain are among them.
        """
        if self._criterion is not None:
            criteria = as_criteria(self._criterion)
        else:
            distilled = distils(self.conf, self._teacher, self.pretrained_model)
            criteria = self.backend.criteria(self.conf) if distilled else ()
        if not any(map(adapts, criteria)):
            criteria += self.backend.adaptation(self.conf)
        return with_own_loss(one for one in criteria if of_target or not adapts(one))
