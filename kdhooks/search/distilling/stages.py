"""Flash and regular distillation: a student that is trained stage by stage.

Rules: a stage is one `Distillation` over the same student, with the user's configuration but for its criterion and its
length; it writes no checkpoint, evaluates nothing that nobody asks for, and hands on its last weights. What a stage
freezes is free again behind it, also after an error, and nothing of ours is left on the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from kdhooks.backend import Backend, backend_of
from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import FlashSettings
from kdhooks.criterion import teachers_by_name
from kdhooks.distillation import Distillation
from kdhooks.errors import LayerError, UsageError
from kdhooks.evaluation import read_score
from kdhooks.messages import logger
from kdhooks.search.distilling.blocks import BlockBank, block_key
from kdhooks.search.distilling.stage_conf import Stage
from kdhooks.search.distilling.stage_data import training_data
from kdhooks.search.distilling.stage_layers import check_layers
from kdhooks.search.distilling.stage_records import EpochEnd, Watch, described, lengths
from kdhooks.search.forms import as_configuration

Conf = str | Path | Mapping[str, Any] | DistillationConf


def opened(conf: Conf) -> DistillationConf:
    """A configuration, also of a mapping in the classic form, without the key ``auto_distillation``."""
    if isinstance(conf, DistillationConf):
        return conf
    return DistillationConf(as_configuration(conf) if isinstance(conf, Mapping) else conf)


class StagedDistillation:
    """What `FlashDistillation` and `RegularDistillation` have in common.

    Args:
        conf: a configuration with ``auto_distillation``: a path, a dict, or a `DistillationConf`.
        student_model: the user's own; may be set later.
        teacher_model: one, or several as `Distillation` takes them.
        train_dataloader: batches; None takes the configuration's, see `kdhooks.search.distilling.stage_data`.
        eval_func: called with the student in evaluation mode after every ``frequency`` epochs; returns a number or a
            mapping of numbers. What it draws from generators changes nothing of the training.
        on_epoch_end: called with an `EpochEnd`; an error that it raises ends the distillation.
        seed: of all stages; None takes ``tuning.random_seed``.
        bank: of blocks, where ``share_blocks`` asks for one; the caller commits it. None is one in the run's folder
            that is committed when all stages are done.
        settings: the stages; None takes those of the configuration.

    Attributes:
        history: a plain mapping for each stage: its ``kind``, ``stage``, ``block``, the ``steps`` and ``epochs`` it
            took, its ``losses`` (means over the last epoch), the number of weights it ``trained``, whether the block
            was ``shared`` by an earlier candidate, and ``seconds``, of which ``setup`` went before the first step.

    Raises:
        ConfigError: the configuration is wrong.
        UsageError: it has no such section.
    """

    kind = ""
    section = ""

    def __init__(
        self,
        conf: Conf,
        student_model: Any = None,
        teacher_model: Any = None,
        *,
        train_dataloader: Any = None,
        eval_func: Callable[[Any], object] | None = None,
        on_epoch_end: Callable[[EpochEnd], object] | None = None,
        seed: int | None = None,
        bank: BlockBank | None = None,
        settings: FlashSettings | None = None,
    ) -> None:
        self.conf = opened(conf)
        self.student_model, self.teacher_model = student_model, teacher_model
        self.train_dataloader, self.eval_func, self.on_epoch_end = train_dataloader, eval_func, on_epoch_end
        self.seed, self.bank = seed, bank
        found = self.settings_in(self.conf) if settings is None else settings
        if found is None:
            raise UsageError(f"the configuration has no auto_distillation.{self.section}: write its stages there")
        self.settings = found
        self.history: list[dict[str, Any]] = []
        self._choices: dict[str, Any] = {}
        self._student_choice: Any = None
        self._before: StagedDistillation | None = None

    @classmethod
    def settings_in(cls, conf: DistillationConf) -> FlashSettings | None:
        """The stages that a configuration has for this part, or None."""
        own = conf.settings.auto_distillation
        found: FlashSettings | None = None if own is None else getattr(own, cls.kind)
        return found

    def stages(self) -> list[Stage]:
        """The stages in their order."""
        return [Stage(self.conf, self.kind, number, one) for number, one in enumerate(self.settings.stages)]

    def __call__(self) -> Any:
        """Train the student in all stages, and return it.

        Raises:
            UsageError: no student, no teacher, or nothing to train on.
            ConfigError: a stage names a layer that a model lacks, at the user's line.
            KDHooksError: whatever `Distillation.fit` raises.
        """
        backend, stages = self._ready(), self.stages()
        check_layers(backend, stages, self.student_model, self.teacher_model)
        self.history, self._choices, self._student_choice = [], {}, None
        bank = self.bank
        if self.settings.share_blocks and bank is None:
            bank = BlockBank(self.conf.workspace / "blocks")
        for stage in stages:
            self.history.append(self._trained(backend, stage, bank if self.settings.share_blocks else None))
            logger.info("%s", described(self.history[-1], len(stages)))
        if bank is not None and self.bank is None and backend.rank() == 0:
            bank.commit()
        return self.student_model

    def continues(self, before: StagedDistillation) -> None:
        """Go on counting epochs where another part has ended."""
        self._before = before

    # ---- inside ------------------------------------------------------------------------------------

    def _ready(self) -> Backend:
        name = type(self).__name__
        if self.student_model is None:
            raise UsageError(f"{name} has no student: set student_model before it is called")
        if not teachers_by_name(self.teacher_model):
            raise UsageError(f"{name} has no teacher: set teacher_model before it is called")
        if not self.settings.stages:
            raise UsageError(f"{name} has no stages: auto_distillation.{self.section} is empty")
        loader = self.stages()[0].train.dataloader
        if self.train_dataloader is None and (loader is None or loader.dataset is None):
            raise UsageError(
                f"{name} has nothing to train on: set train_dataloader, or name a dataset in "
                "auto_distillation.train.dataloader"
            )
        return backend_of(self.student_model)

    def _trained(self, backend: Backend, stage: Stage, bank: BlockBank | None) -> dict[str, Any]:
        """Train one stage; what is known of it."""
        watch, student, block = Watch(), self.student_model, stage.settings.block
        conf = stage.configuration(epoch=self._epochs(stage), seed=self.seed)
        seed = conf.settings.tuning.random_seed
        with backend.only_trained(student, self._blocks(stage)) as trained:
            if not trained:
                raise stage.problem(LayerError(f"the layer {block!r} of the student has no parameter to train"))
            key, shared = self._begin(backend, stage, bank)
            distiller = self._distiller(backend, stage, conf)
            distiller.register_hook("on_epoch_begin", watch.ready)
            data = distiller.train_dataloader
            with nullcontext() if seed is None else backend.seeded_data(data, seed):
                distiller.fit()
        self._choices, self._student_choice = distiller.choices, distiller.student_choice
        losses = dict(distiller.history[-1]["losses"])
        if bank is not None and key is not None:
            bank.keep(key, backend.block(student, block).arrays(), {"losses": losses})
        said = {"kind": self.kind, "stage": stage.number, "block": block, "trained": trained, "shared": shared}
        return {**said, **lengths(distiller), "losses": losses, **watch.seconds()}

    def _distiller(self, backend: Backend, stage: Stage, conf: DistillationConf) -> Distillation:
        """What trains a stage, in a loop that writes nothing and runs the student no further than it must."""
        distiller = Distillation(conf, student_model=self.student_model, teacher_model=self.teacher_model)
        distiller.writes_files, distiller.ends_early = False, True
        distiller.train_dataloader = training_data(backend, stage, self.train_dataloader)
        distiller.student_choice = self._student_choice
        distiller.register_hook("on_train_begin", self._adopt)
        distiller.register_hook("on_epoch_end", lambda one: self._epoch_ended(backend, stage, one))
        return distiller

    def _blocks(self, stage: Stage) -> list[str]:
        """What is trained in a stage: its own block, or the earlier ones as well."""
        first = stage.number if self.settings.freeze_earlier else 0
        return [one.block for one in self.settings.stages[first : stage.number + 1]]

    def _epochs(self, stage: Stage) -> int:
        """The number of a stage's first epoch: the order of the data goes on where the stage before it ended."""
        before = [] if self._before is None else self._before.history
        done: int = sum(record["epochs"] for record in (*before, *self.history))
        return stage.train.start_epoch + done

    def _adopt(self, distiller: Distillation) -> None:
        """Run the teacher as the stage before did, where that was found out by timing."""
        distiller.adopt(self._choices)

    def _begin(self, backend: Backend, stage: Stage, bank: BlockBank | None) -> tuple[str | None, bool]:
        """Put what an earlier candidate's block has learned into the stage's; its key, and whether there was one."""
        block, settings = stage.settings.block, self.settings
        if bank is None or not block:
            return None, False
        how = {
            "kind": self.kind,
            "criterion": stage.settings.criterion,
            "steps": stage.settings.train_steps,
            "freeze_earlier": settings.freeze_earlier,
            "train": repr(stage.train),
        }
        key = block_key(backend, self.student_model, block, self.teacher_model, how)
        arrays = bank.read(key)
        if arrays is None:
            return key, False
        backend.block(self.student_model, block).load(arrays)
        return key, True

    def _epoch_ended(self, backend: Backend, stage: Stage, distiller: Distillation) -> None:
        epoch = sum(one["epochs"] for one in self.history) + len(distiller.history) - 1
        steps = sum(one["steps"] for one in (*self.history, *distiller.history))
        metrics: dict[str, float] = {}
        score = None
        if self.eval_func is not None and len(distiller.history) % stage.train.frequency == 0:
            before = backend.rng_state()
            try:
                with backend.evaluation_mode(self.student_model):
                    metrics, score = read_score(self.eval_func(self.student_model))
            finally:
                backend.set_rng_state(before)
        if self.on_epoch_end is not None:
            losses = dict(distiller.history[-1]["losses"])
            event = (self.kind, stage.number, stage.settings.block, epoch, steps, losses, metrics, score)
            self.on_epoch_end(EpochEnd(*event))


class FlashDistillation(StagedDistillation):
    """The student is trained block by block, each on its own pairs of layers: ``flash_distillation``.

    Stage k trains the parameters under ``block_names[k]``, and all where the name is empty; the others are frozen.
    With ``freeze_earlier: false`` it trains the blocks before it again. See `StagedDistillation` for arguments.

    Example:
        >>> import torch
        >>> from kdhooks.config.search_settings import StageSettings
        >>> student, teacher = (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)) for _ in range(2))
        >>> stages = tuple(StageSettings(one, {"layer_mappings": [[one]]}, train_steps=3) for one in ("0", "1"))
        >>> flash = FlashDistillation({}, student, teacher, settings=FlashSettings(stages))
        >>> flash.train_dataloader = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))]
        >>> flash() is student, [(stage["block"], stage["steps"]) for stage in flash.history]
        (True, [('0', 3), ('1', 3)])
    """

    kind, section = "flash", "flash_distillation"


class RegularDistillation(StagedDistillation):
    """The student is trained as a whole: ``regular_distillation``. See `StagedDistillation` for arguments."""

    kind, section = "regular", "regular_distillation"


def parts_of(conf: Conf, **options: Any) -> tuple[StagedDistillation, ...]:
    """The parts that a configuration names: flash distillation, then regular distillation.

    Args:
        conf: a configuration with ``auto_distillation``.
        options: of `StagedDistillation`; ``eval_func`` and ``on_epoch_end`` go to the last part alone, since a student
            of which some blocks are untrained has no score yet.
    """
    conf = opened(conf)
    kinds = [kind for kind in (FlashDistillation, RegularDistillation) if kind.settings_in(conf) is not None]
    early = {name: value for name, value in options.items() if name not in ("eval_func", "on_epoch_end")}
    parts = tuple(kind(conf, **(options if kind is kinds[-1] else early)) for kind in kinds)
    for part in parts[1:]:
        part.continues(parts[0])
    return parts
