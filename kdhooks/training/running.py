"""One run of the ready-made loop: the parts of Lightning, put together, and what is left when it ends.

This module and those that it imports are loaded when training starts, since they need Lightning.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.criterion import teachers_by_name
from kdhooks.messages import logger
from kdhooks.recording import KeptRun
from kdhooks.training.arguments import Arguments
from kdhooks.training.batches import Calls, Forward
from kdhooks.training.checkpoints import Keeper, read_checkpoint
from kdhooks.training.hardware import Hardware
from kdhooks.training.logs import CometInfo, comet_logger, file_logger, log_parameters
from kdhooks.training.loss import FinalLoss
from kdhooks.training.module import TrainingModule
from kdhooks.training.validation import ValidatedDistillation, Validation

WORKSPACE = Path(".kdhooks", "kd_training")

_FIXED = ("optimize_method", "scheduler_method")
"""Arguments that the optimizer and the schedule in a checkpoint are made of."""


class TrainingRun:
    """A run: made by each `start_kd_training`.

    Args:
        arguments: of the training.
        conf: what of `Distillation` was asked for besides.
        hardware: where it runs.
        comet: what Comet needs, or None.

    Attributes:
        distiller: the `Distillation`.
        folder: of this run; known on all ranks once it trains.
    """

    def __init__(
        self, arguments: Arguments, conf: DistillationConf, hardware: Hardware, comet: CometInfo | None
    ) -> None:
        self.arguments, self._hardware, self._comet = arguments, hardware, comet
        self.folder = free_folder(Path(arguments.workspace or WORKSPACE))
        student, teachers = arguments.student_model, teachers_by_name(arguments.teacher_model)
        learns, teaches = Forward.of(student, "student"), _alike(teachers)
        softens = {"student": learns.softens, **dict.fromkeys(teachers, teaches.softens)}
        self._final_loss = FinalLoss(
            arguments.final_loss_coeff_dict, arguments.temperature, softens, arguments.student_loss
        )
        self._calls = Calls(learns, teaches, arguments.temperature, arguments.input_columns)
        self.distiller = ValidatedDistillation(conf, student_model=student, teacher_model=arguments.teacher_model)
        self.distiller.train_dataloader = None
        both = learns.softens and teaches.softens
        alike = (replace(learns, softens=both), replace(teaches, softens=both))
        self.distiller.calls = Calls(alike[0], alike[1], 1, arguments.input_columns)
        more = self.distiller.backend.criteria(conf) if conf.has("distillation.train.criterion") else ()
        self.distiller.criterion = [self._final_loss, *more]
        if arguments.loaders:
            self.distiller.validation = Validation(
                arguments.loaders, arguments.inference_pipeline, arguments.higher_is_better, self.distiller.backend
            )

    def train(self) -> None:
        """From the seed to the best weights in the student."""
        given = self.arguments
        resumed = str(given.resume_from_checkpoint or "")
        fixed = {name: getattr(given, name) for name in _FIXED}
        seed = given.seed
        if resumed:  # the order of rows that several processes share is made of the seed
            seed = read_checkpoint(Path(resumed), given.student_model, fixed, given.max_epoch)["kdhooks"]["seed"]
        if seed is not None:
            seed_everything(seed, workers=True, verbose=False)
        loggers = [file_logger(self.folder), *given.loggers]
        if self._comet is not None:
            loggers.append(comet_logger(self._comet, given.comet_exp_name))
        keeper = Keeper(self.folder, next(iter(given.loaders), None))
        module = TrainingModule(replace(given, seed=seed), self.distiller, self._calls, self._final_loss, fixed, keeper)
        trainer = Trainer(
            **self._hardware.trainer_arguments(),
            max_epochs=given.max_epoch,
            accumulate_grad_batches=given.accumulate_grad_batches,
            deterministic=given.deterministic,
            logger=loggers,
            callbacks=[keeper],
            default_root_dir=self.folder,
            enable_progress_bar=given.progress_bar,
            enable_model_summary=False,
            enable_checkpointing=True,
            num_sanity_val_steps=0,
            log_every_n_steps=given.log_every_n_steps,
        )
        log_parameters(loggers, given.logging_param)
        self.distiller.kept = self._kept(seed, Path(resumed).parent if resumed else None)
        with ExitStack() as stack:
            stack.push(self.distiller)  # the hooks come off, and the record says how the run ended
            trainer.fit(module, **(_from(resumed) if resumed else {}))
        self.folder = keeper.folder
        if keeper.last.exists():
            logger.info("checkpoints and logs: %s; for a page: kdhooks report %s", self.folder, quote(str(self.folder)))

    def _kept(self, seed: int | None, former: Path | None) -> KeptRun:
        """What the record says of the run; rank 0 writes it, into its own folder."""
        name = self.arguments.comet_exp_name or self.distiller.conf.settings.model.name
        settings = self.arguments.described() | {"seed": seed, "distillation": self.distiller.conf.to_dict()}
        return KeptRun(name, self.folder, settings, seed, former)


def _from(checkpoint: str) -> dict[str, Any]:
    """How Lightning is told where to go on; newer ones also how to read it, which `read_checkpoint` has done before."""
    known = inspect.signature(Trainer.fit).parameters
    return {"ckpt_path": checkpoint, **({"weights_only": True} if "weights_only" in known else {})}


def _alike(teachers: Mapping[str, nn.Module]) -> Forward:
    """How all teachers are called, since one input goes to all: as the first, with the temperature if all take it."""
    forwards = [Forward.of(model, name) for name, model in teachers.items()]
    return replace(forwards[0], softens=all(forward.softens for forward in forwards))


def free_folder(workspace: Path) -> Path:
    """The first ``version_N`` of a workspace that is not there yet."""
    number = 0
    while (workspace / f"version_{number}").exists():
        number += 1
    return workspace / f"version_{number}"
