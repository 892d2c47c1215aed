"""`KnowledgeDistillationTraining`, the object that a user of the ready-made loop holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from kdhooks import messages
from kdhooks.config import DistillationConf
from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import MissingPackageError
from kdhooks.history import History
from kdhooks.messages import logger
from kdhooks.training.arguments import Arguments
from kdhooks.training.hardware import find_hardware
from kdhooks.training.logs import check_comet_package, read_comet_info
from kdhooks.training.loss import KD_LOSS
from kdhooks.training.optimizing import LINEAR
from kdhooks.training.surroundings import as_before, as_found

ONLY_KD_LOSS: Mapping[str, float] = MappingProxyType({KD_LOSS: 1})
"""The coefficients where none are given."""


class KnowledgeDistillationTraining:
    """A loop that needs nothing but models and data: Lightning trains the student, the hooks distil.

    Arguments are given by name. Those of the Knowledge-Distillation-Toolkit come first, and mean what they meant there;
    what a student and a teacher may return, and how they are called, is in ``docs/training.md``.

    Args:
        teacher_model: the model to learn from, or a list or mapping of several, which weigh alike.
        student_model: the model that learns; the user's own object, trained in place.
        train_data_loader: batches as (input, labels), longer tuples, or mappings.
        val_data_loaders: loaders by name, validated after each epoch; the first one's result chooses the best student.
        inference_pipeline: has ``run_inference_pipeline(model, data_loader) -> {"inference_result": number}``; called
            with the student in eval mode, without a graph.
        num_gpu_used: how many GPUs on each node; 0 trains on the CPU, -1 takes all there are.
        max_epoch: epochs of the training.
        optimize_method: ``adam``, ``sgd``, ``adam_wav2vec2.0``, ``adam_distilBert`` or ``adamW_distilBert``.
        scheduler_method: ``""``, ``linear_decay_with_warm_up`` or ``cosine_anneal``; one step an epoch.
        learning_rate: of the optimizer.
        num_lr_warm_up_epoch: epochs of the linear warm-up.
        final_loss_coeff_dict: a coefficient for each component of the loss.
        log_to_comet: whether metrics go to Comet.
        comet_info_path: a txt file with api key, project name and workspace, a line each.
        comet_exp_name: the experiment's name at Comet.
        temperature: T of ``kd_loss``, which is multiplied by T².
        seed: of all generators, set when training starts; None sets none.
        track_grad_norm: the order of the norm of the student's gradient that is logged; ``inf``; -1 logs none.
        accumulate_grad_batches: batches for one step of the optimizer.
        accelerator: None goes by `num_gpu_used`; a kind of device (``cpu``, ``gpu``, ``cuda``, ``mps``, ``auto``), or
            ``ddp``, or ``ddp_cpu`` with `num_processes`.
        num_nodes: how many machines.
        precision: 16 or 32, or Lightning's words; where the device has no 16 bit, the nearest that it has.
        deterministic: whether torch uses deterministic algorithms alone, for as long as it trains.
        resume_from_checkpoint: a ``.ckpt`` of an earlier run to go on from, bit for bit.
        logging_param: saved with every logger as hyper-parameters.
        higher_is_better: of the first validation loader's result.
        student_loss: (student's output, labels) -> a scalar, the component ``student_loss``; or a mapping of several.
        input_columns: what of a batch that is a tuple goes to the models: places, or a name for each column.
        distillation: more of `kdhooks.Distillation`, as a YAML file, a dict or a `DistillationConf`: criteria of hidden
            layers, the teacher's precision, stored outputs.
        workspace: the folder below which each run has one of its own; None is ``.kdhooks/kd_training``.
        num_processes: processes on the CPU of each node.
        log_every_n_steps: steps of the optimizer from one log to the next.
        loggers: more of Lightning's loggers.
        progress_bar: whether Lightning shows one.

    Raises:
        UsageError: arguments that don't fit; all that is wrong is said at once, before anything is written.
        MissingPackageError: Lightning is not installed, or Comet where it is asked for.

    Example:
        >>> import torch
        >>> from kdhooks import KnowledgeDistillationTraining
        >>> data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.randint(3, (8,)))
        >>> training = KnowledgeDistillationTraining(
        ...     student_model=torch.nn.Linear(4, 3),
        ...     teacher_model=torch.nn.Linear(4, 3),
        ...     train_data_loader=torch.utils.data.DataLoader(data, batch_size=4),
        ... )
        >>> student = training.start_kd_training()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        teacher_model: Any = None,
        student_model: Any = None,
        train_data_loader: Any = None,
        val_data_loaders: Mapping[str, Any] | Sequence[tuple[str, Any]] | None = None,
        inference_pipeline: Any = None,
        num_gpu_used: int = 0,
        max_epoch: int = 10,
        optimize_method: str = "adam",
        scheduler_method: str = "",
        learning_rate: float = 0.0001,
        num_lr_warm_up_epoch: int = 0,
        final_loss_coeff_dict: Mapping[str, float] = ONLY_KD_LOSS,
        log_to_comet: bool = False,
        comet_info_path: str | Path = "",
        comet_exp_name: str = "",
        temperature: float = 1,
        seed: int | None = 32,
        track_grad_norm: float | str = 2,
        accumulate_grad_batches: int = 1,
        accelerator: str | None = None,
        num_nodes: int = 1,
        precision: int | str = 16,
        deterministic: bool = True,
        resume_from_checkpoint: str | Path | None = "",
        logging_param: Mapping[str, Any] | None = None,
        higher_is_better: bool = True,
        student_loss: Callable[[Any, Any], Any] | None = None,
        input_columns: Sequence[int] | Sequence[str] = (),
        distillation: str | Path | Mapping[str, Any] | DistillationConf | None = None,
        workspace: str | Path | None = None,
        num_processes: int = 1,
        log_every_n_steps: int = 50,
        loggers: Sequence[Any] = (),
        progress_bar: bool = True,
    ) -> None:
        if find_spec("lightning") is None:
            raise MissingPackageError("lightning", "KnowledgeDistillationTraining", "lightning")
        messages.speak_by_default()
        given = {name: value for name, value in locals().items() if name != "self"}
        self._arguments = Arguments(**given)
        self._arguments.check()
        self._conf = distillation if isinstance(distillation, DistillationConf) else DistillationConf(distillation)
        self._hardware = find_hardware(
            num_gpu_used=num_gpu_used,
            num_processes=num_processes,
            accelerator=accelerator,
            num_nodes=num_nodes,
            precision=precision,
        )
        self._comet = read_comet_info(comet_info_path) if log_to_comet else None
        if log_to_comet:
            check_comet_package()
        if num_lr_warm_up_epoch and scheduler_method != LINEAR:
            logger.warning("num_lr_warm_up_epoch has no effect: scheduler_method is %r", scheduler_method)
        self._run: Any = None

    def start_kd_training(self) -> nn.Module:
        """Train, validate after each epoch, and write checkpoints and the record of the run.

        A second call is a new run in a folder of its own: all epochs again, from the weights that the student has by
        then.

        Returns:
            The user's own student with the best weights; with the last ones where nothing was validated.

        Raises:
            UsageError, ModelError, DataError: a batch, an output or a pipeline's result doesn't fit.
            CheckpointError: `resume_from_checkpoint` is missing, damaged, newer, or of another student.
        """
        from kdhooks.training.running import TrainingRun

        given = self._arguments
        student: nn.Module = given.student_model
        with as_before(), as_found(student, *teachers_by_name(given.teacher_model).values()):
            self._run = TrainingRun(given, self._conf, self._hardware, self._comet)
            self._run.train()
        return student

    def get_student_model(self) -> nn.Module:
        """The student, as the user's own object."""
        student: nn.Module = self._arguments.student_model
        return student

    @property
    def distiller(self) -> Distillation | None:
        """The `kdhooks.Distillation` of the last run, or None before the first."""
        found: Distillation | None = None if self._run is None else self._run.distiller
        return found

    @property
    def folder(self) -> Path | None:
        """The last run's folder with its record, event files and checkpoints, or None before the first."""
        found: Path | None = None if self._run is None else self._run.folder
        return found

    @property
    def history(self) -> History:
        """One record an epoch, with losses and the results by loader; see `kdhooks.history.History`."""
        return History() if self.distiller is None else self.distiller.history

    @property
    def best_score(self) -> float | None:
        """The best result of the first validation loader, or None."""
        return None if self.distiller is None else self.distiller.best_score
