"""Builds candidates from a configuration of Hugging Face: the model builder of the out-of-the-box mode.

Rules: transformers is imported where a candidate is built, never before. A folder is read from the disk alone; the
network is asked only for a name that the user wrote. What follows from other parameters (MobileBERT's
``true_hidden_size``) is never copied from one configuration into the next: the class computes it anew.
"""

from __future__ import annotations

import inspect
import json
import zlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.distillation import Distillation
from kdhooks.errors import DataError, MissingPackageError, UsageError, shown
from kdhooks.messages import warnings_only
from kdhooks.names import did_you_mean

FOLLOWED = (
    "vocab_size",
    "pad_token_id",
    "type_vocab_size",
    "max_position_embeddings",
    "image_size",
    "num_channels",
    "id2label",
    "label2id",
    "problem_type",
)
"""What the data decide, and not the architecture: candidates have the teacher's."""

_NOT_PARAMETERS = {"transformers_version", "architectures", "model_type", "_name_or_path"}
_DECIDES = {"num_labels": ("id2label", "label2id")}
"""What a parameter says anew, so that it isn't copied beside it."""


class ConfigBuilder:
    """From the parameters of an architecture to a model with random weights.

    Args:
        config: a configuration class of transformers or an instance of one, the folder of a checkpoint or its name on
            the hub, a model (its configuration is taken), or None where `model_cls` is a model class, which has one.
        model_cls: an ``AutoModel...`` class, or a model class; None takes the class of `config` where it is a model.
        teacher: the teacher, whose vocabulary and labels candidates have where `config` is silent.
        pretrained: where initial weights come from: a folder, a file of weights, a state_dict, a model, or True for
            `config` itself; None leaves them random.
        finetune: options of the section ``finetune``, which say how weights are matched.

    Raises:
        UsageError: there is no configuration, or no class of models.
        DataError: there is no such folder, or no configuration in it.
        MissingPackageError: transformers is not installed.
    """

    def __init__(
        self,
        config: Any,
        model_cls: Any = None,
        *,
        teacher: Any = None,
        pretrained: Any = None,
        finetune: Mapping[str, Any] | None = None,
    ) -> None:
        transformers()
        self.model_cls: Any = model_cls if model_cls is not None else type(config) if _is_model(config) else None
        if self.model_cls is None:
            raise UsageError(
                "there is no class to build candidates from: pass model_cls, an AutoModel... class as in "
                "model_cls=AutoModelForSequenceClassification, or a model_builder of your own"
            )
        self._given = config
        self._base = _configuration(config, self.model_cls)
        self._kind: type[Any] = type(self._base)
        self._teacher = getattr(teacher, "config", None)
        self._pretrained, self._finetune = pretrained, dict(finetune or {})

    def __call__(self, arch: Mapping[str, Any]) -> Any:
        """A model of this architecture.

        Args:
            arch: parameters of the configuration, by name; also by the names that `attribute_map` translates.

        Raises:
            UsageError: the configuration has no such parameter.
            Exception: what transformers raises where the parameters don't fit together.
        """
        config = self.configuration(arch)
        from_config = getattr(self.model_cls, "from_config", None)
        model = self.model_cls(config) if from_config is None else from_config(config)
        if self._pretrained is not None:
            self._begin_with_weights(model)
        return model

    @property
    def identity(self) -> dict[str, str]:
        """What candidates have in common, in a few letters: the configuration's class, a digest, the model's class."""
        digest = zlib.crc32(json.dumps(self._values, sort_keys=True, default=str).encode())
        return {"built from": f"{self._kind.__name__} {digest:08x} for {self.model_cls.__name__}"}

    def configuration(self, arch: Mapping[str, Any]) -> Any:
        """The configuration of an architecture; UsageError where it has no such parameter."""
        for name, message, advice in self.unknown(arch):
            raise UsageError(f"{name}: {message}. {advice}")
        chosen = {self._own_name(name): value for name, value in arch.items()}
        contradicted = {other for name in chosen for other in _DECIDES.get(name, ())}
        base = {name: value for name, value in self._values.items() if name not in contradicted}
        return self._kind(**{**base, **chosen})

    def unknown(self, names: Iterable[str]) -> list[tuple[str, str, str]]:
        """Names that are no parameters: each with what is wrong and a suggestion."""
        known = self._parameters
        kind = self._kind.__name__
        return [
            (name, f"{kind} has no parameter {name!r}", did_you_mean(name, known, what="Its parameters"))
            for name in names
            if name not in known
        ]

    @cached_property
    def _parameters(self) -> set[str]:
        """Everything that the configuration can be given by name."""
        there = {name for name in self._base.to_dict() if not name.startswith("_")}
        return (there | _signature(self._kind) | set(self._kind.attribute_map) | set(_DECIDES)) - _NOT_PARAMETERS

    @cached_property
    def _values(self) -> dict[str, Any]:
        """What every candidate has: what the configuration says, and what the teacher decides where it is silent."""
        said = _said(self._base)
        followed: dict[str, Any] = {}
        for name in FOLLOWED:
            own = self._own_name(name)
            if name in self._parameters and own not in said and hasattr(self._teacher, name):
                followed[own] = getattr(self._teacher, name)
        if "id2label" in said or "label2id" in said:  # one of them alone would contradict the other
            followed = {key: value for key, value in followed.items() if key not in ("id2label", "label2id")}
        return {**followed, **said}

    def _own_name(self, name: str) -> str:
        """The configuration's own name of a parameter: DistilBERT's hidden_size is dim."""
        own: str = self._kind.attribute_map.get(name, name)
        return own

    # ---- initial weights ---------------------------------------------------------------------------

    def _begin_with_weights(self, model: Any) -> None:
        """Give a model the pretrained weights whose shapes agree with its own."""
        options = {"on_mismatch": "skip", **self._finetune}
        options.pop("pretrained", None)
        distiller = Distillation(DistillationConf({"finetune": options}), student_model=model)
        distiller.pretrained_model = self._weights
        with warnings_only(), distiller:  # a report for every candidate would hide the search's own lines
            pass

    @cached_property
    def _weights(self) -> Any:
        """What `Distillation.pretrained_model` takes; a folder is loaded once, by transformers."""
        source = self._given if self._pretrained is True else self._pretrained
        if isinstance(source, (str, Path)) and not Path(source).is_file():
            return self.model_cls.from_pretrained(source, **_offline(source))
        if isinstance(source, (str, Path, Mapping)) or hasattr(source, "state_dict"):
            return source
        raise UsageError(f"pretrained_model=True needs a folder or a model to take weights from, not {shown(source)}")


def _configuration(config: Any, model_cls: Any) -> Any:
    """An instance of a configuration class, with defaults where it says nothing."""
    package = transformers()
    if config is None:
        config = getattr(model_cls, "config_class", None)
    if config is None:
        raise UsageError(
            f"{getattr(model_cls, '__name__', model_cls)} alone does not say which architecture is meant: give the "
            "Trainer a configuration class, a configuration, a checkpoint's folder or a model"
        )
    if isinstance(config, (str, Path)):
        return _read(package, config)
    config = getattr(config, "config", config) if _is_model(config) else config
    if isinstance(config, type) and issubclass(config, package.PretrainedConfig):
        return config()
    if isinstance(config, package.PretrainedConfig):
        return config
    raise UsageError(
        "candidates are built from a configuration class of transformers, a configuration, a checkpoint's folder or a "
        f"model of transformers, not from {shown(config)}"
    )


def _read(package: Any, source: str | Path) -> Any:
    try:
        return package.AutoConfig.from_pretrained(str(source), **_offline(source))
    except (OSError, ValueError) as error:
        raise DataError(f"there is no configuration in {str(source)!r}: {str(error).splitlines()[0]}") from None


def _offline(source: str | Path) -> dict[str, bool]:
    """Options that keep the loading of a folder on this machine."""
    folder = isinstance(source, Path) or Path(source).exists() or str(source).startswith((".", "/", "~"))
    return {"local_files_only": True} if folder else {}


def _said(config: Any) -> dict[str, Any]:
    """What a configuration says beyond the defaults of its class, without what the class computes from it."""
    values = {name: value for name, value in config.to_dict().items() if name not in _NOT_PARAMETERS}
    kind = type(config)
    if getattr(kind, "has_no_defaults_at_init", False):
        return values
    default = kind().to_dict()
    common = set(transformers().PretrainedConfig().to_dict())
    computed = set(default) - _signature(kind) - common
    return {
        name: value
        for name, value in values.items()
        if name not in computed and (name not in default or default[name] != value)
    }


def _signature(kind: type[Any]) -> set[str]:
    """The parameters that a class names."""
    parameters = inspect.signature(kind).parameters.values()
    return {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def _is_model(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "config") and hasattr(value, "state_dict")


def transformers() -> Any:
    """The package; MissingPackageError where it is not installed."""
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingPackageError("transformers", "kdhooks.search.Trainer", "transformers") from None
