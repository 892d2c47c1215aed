"""AutoDistillation for a `Trainer` of transformers: what its user has already is all that is needed.

Rules: nothing of torch or transformers is imported before `autodistillation` is called. A configuration says what it
wants; where it is silent the trainer's arguments, data, collator and metrics stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from kdhooks.backend import framework_of
from kdhooks.config import DistillationConf
from kdhooks.criterion import teachers_by_name
from kdhooks.errors import ConfigError, UsageError
from kdhooks.search.auto import AutoDistillation
from kdhooks.search.forms import as_configuration
from kdhooks.search.trainers.arguments import DefaultArguments, fill_in
from kdhooks.search.trainers.builder import ConfigBuilder, transformers
from kdhooks.search.trainers.fields import CommonFields, FilteredBatches

ROWS = "kdhooks.torch.rows"
"""The data side; models of transformers are PyTorch's, so there is one. Found by name, as backends are."""

Conf = str | Path | Mapping[str, Any] | DistillationConf


class TrainerMixin:
    """Gives a `Trainer` of transformers the method `autodistillation`.

    Its own ``get_train_dataloader`` and ``get_eval_dataloader``, ``compute_metrics`` and ``args`` are used: learning
    rate, optimizer, scheduler, epochs, precision and clipping where the configuration is silent. Its
    ``compute_loss`` and callbacks are not: candidates are trained by `kdhooks.Distillation`.

    Attributes:
        autodistillation_config: the configuration: a path, a `DistillationConf`, or a dict, also the classic one
            without the key ``auto_distillation``.
        pretrained_model: where candidates' initial weights come from, for tensors whose shapes agree: a checkpoint's
            folder, a file, a state_dict, a model, or True for the trainer's own; None is ``finetune.pretrained`` of the
            configuration, or random weights. The section ``finetune`` says how weights are matched.
        agent: the `AutoDistillation` of the last search.

    Example::

        class MyTrainer(kdhooks.search.TrainerMixin, transformers.Trainer):
            pass

        trainer = MyTrainer(model=student, args=args, train_dataset=train, eval_dataset=dev)
        trainer.autodistillation_config = "auto.yaml"
        best_model_arch = trainer.autodistillation(teacher, model_cls=AutoModelForSequenceClassification)
    """

    autodistillation_config: Conf | None = None
    pretrained_model: Any = None
    agent: AutoDistillation | None = None
    _made: ConfigBuilder | None = None
    _fields = CommonFields(None)

    def autodistillation(
        self,
        teacher_model: Any,
        model_builder: Callable[[dict[str, Any]], Any] | None = None,
        model_cls: Any = None,
        train_func: Callable[[Any], Any] | None = None,
        eval_func: Callable[[Any], Any] | None = None,
    ) -> dict[str, Any] | None:
        """Search for the student, and return the best architecture.

        Args:
            teacher_model: the model, or several as `kdhooks.Distillation` takes them, that candidates learn from.
            model_builder: from an architecture to a model; None is `model_builder_builtin`.
            model_cls: the class of candidates for `model_builder_builtin`, as in ``AutoModelForPreTraining``.
            train_func: trains a candidate and returns it; None is the training that the configuration describes.
            eval_func: returns a candidate's metrics; None uses ``compute_metrics``, or what the configuration says.

        Returns:
            The best candidate's parameters by name, None where no candidate is complete; all are in `search_result`.

        Raises:
            ConfigError, UsageError: something is missing or doesn't fit; all candidates would fail by it.
            MissingPackageError: transformers or optuna is not installed.
        """
        labels = getattr(self._arguments(), "label_names", None) or ()
        self._fields = CommonFields(teacher_model, labels)
        train, judged = self._loader("train"), self._loader("eval")
        conf = self._configuration(_length(train))
        identity: Mapping[str, Any] = getattr(model_builder, "identity", {})
        if model_builder is None:
            self._made = self._config_builder(model_cls, teacher_model, conf)
            _check_space(conf, self._made)
            model_builder, identity = partial(self.model_builder_builtin, model_cls=model_cls), self._made.identity
        builder = _Meeting(model_builder, self._fields, identity)
        agent = AutoDistillation(builder, conf, teacher_model=teacher_model)
        agent.train_dataloader, agent.eval_dataloader = train, judged
        agent.train_func, agent.eval_func = train_func, eval_func
        if eval_func is None and judged is not None and getattr(self, "compute_metrics", None) is not None:
            agent.eval_func = partial(self._judged, agent)
        self.agent = agent
        return agent.search_loop()

    def model_builder_builtin(self, model_arch_paras: Mapping[str, Any], model_cls: Any = None) -> Any:
        """The model of an architecture: the trainer's configuration with these parameters, in a class.

        Vocabulary, labels and the like are the teacher's where the configuration is silent about them.

        Args:
            model_arch_paras: parameters of the configuration, by name.
            model_cls: an ``AutoModel...`` class, or a model class; None takes the class of the trainer's model.

        Raises:
            UsageError: no configuration, no class, or a parameter that the configuration lacks.
        """
        builder = self._made
        if builder is None or (model_cls is not None and builder.model_cls is not model_cls):
            builder = self._made = self._config_builder(model_cls, None, None)
        return builder(model_arch_paras)

    @property
    def search_result(self) -> Any:
        """All candidates of the last search, or None."""
        return None if self.agent is None else self.agent.search_result

    @property
    def best_model_arch(self) -> dict[str, Any] | None:
        """The best architecture of the last search, or None."""
        return None if self.agent is None else self.agent.best_model_arch

    # ---- what stands in where the configuration is silent ------------------------------------------

    def _arguments(self) -> Any:
        given = getattr(self, "args", None)
        return DefaultArguments() if given is None else given

    def _seed(self) -> int:
        """Of the search where the configuration has none, and of the order of the data."""
        return int(getattr(self._arguments(), "seed", 42))

    def _configuration(self, batches: int | None) -> DistillationConf:
        """The configuration, with what the arguments say where it says nothing."""
        given = self.autodistillation_config
        if given is None:
            raise UsageError("set trainer.autodistillation_config: a path, a dict or a DistillationConf")
        conf = DistillationConf(as_configuration(given) if isinstance(given, Mapping) else given)
        if conf.settings.auto_distillation is None:
            advice = "Put search, flash_distillation and so on below it."
            raise conf.problem("", "there is no section auto_distillation", advice)
        fill_in(conf, self._arguments(), batches, seed=self._seed())
        return conf

    def _config_builder(self, model_cls: Any, teacher: Any, conf: DistillationConf | None) -> ConfigBuilder:
        config = getattr(self, "config", None)
        finetune = conf["finetune"] if conf is not None and conf.has("finetune") else {}
        return ConfigBuilder(
            getattr(self, "model", None) if config is None else config,
            model_cls,
            teacher=next(iter(teachers_by_name(teacher).values()), None),
            pretrained=finetune.get("pretrained") if self.pretrained_model is None else self.pretrained_model,
            finetune=finetune,
        )

    def _loader(self, which: str) -> Any:
        """The trainer's own loader of ``train`` or ``eval`` data; None where it has no such data."""
        dataset = getattr(self, f"{which}_dataset", None)
        if isinstance(dataset, Mapping) and which == "eval":
            raise UsageError("eval_dataset holds several datasets: candidates are judged by one, so give the one")
        try:
            return self._batches(which)
        except (ValueError, UsageError):
            if dataset is not None:
                raise
            return None  # the configuration may name the data

    def _batches(self, which: str) -> Any:
        """The trainer's own loader, of which both models' fields pass."""
        return FilteredBatches(getattr(self, f"get_{which}_dataloader")(), self._fields)

    def _judged(self, agent: AutoDistillation, model: Any) -> Any:
        """What ``compute_metrics`` says of a model's predictions for the evaluation data."""
        evaluation_prediction = transformers().EvalPrediction
        settings = agent.config.settings
        judged = None if settings.auto_distillation is None else settings.auto_distillation.evaluation
        logits, labels = import_module(ROWS).predictions(
            model,
            agent.eval_dataloader,
            inputs=settings.model.inputs,
            outputs=settings.model.outputs,
            limit=None if judged is None else judged.iteration,
            preprocess=getattr(self, "preprocess_logits_for_metrics", None),
        )
        compute_metrics: Callable[[Any], Any] = getattr(self, "compute_metrics")  # noqa: B009  # the trainer's own
        found = compute_metrics(evaluation_prediction(predictions=logits, label_ids=labels))
        return (
            {name.removeprefix("eval_"): value for name, value in found.items()}
            if isinstance(found, Mapping)
            else found
        )


class _Meeting:
    """A model builder that tells of every candidate, so that batches have only what it takes."""

    def __init__(
        self, build: Callable[[dict[str, Any]], Any], fields: CommonFields, identity: Mapping[str, Any]
    ) -> None:
        self._build, self._fields, self.identity = build, fields, identity

    def __call__(self, arch: dict[str, Any]) -> Any:
        model = self._build(arch)
        if framework_of(model) == "pytorch":
            self._fields.meet(model)
        return model


def _check_space(conf: DistillationConf, builder: ConfigBuilder) -> None:
    """Every parameter of the search space is one of the model's configuration.

    Raises:
        ConfigError: those that are not, at the user's lines.
    """
    own = conf.settings.auto_distillation
    space = {} if own is None else {one.name: one.path for one in own.search.search_space}
    problems = [
        problem
        for name, message, advice in builder.unknown(space)
        for problem in conf.problem(space[name], message, advice, of_key=True).problems
    ]
    if problems:
        raise ConfigError(problems)


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None
