"""What a user sets on a search and reads from it: functions, models, data, the configuration, the result.

Rule: a change of the configuration leaves the study that is open; the next call opens the one that is meant then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdhooks import messages
from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import AutoDistillationSettings
from kdhooks.errors import UsageError
from kdhooks.search.forms import as_configuration
from kdhooks.search.results.result import SearchResult
from kdhooks.search.trials.course import Course

Conf = str | Path | Mapping[str, Any] | DistillationConf
Builder = Callable[[dict[str, Any]], Any]
_SEARCH = "auto_distillation.search"


class Agent:
    """The part of `kdhooks.AutoDistillation` that a user sets and reads; see there."""

    def __init__(
        self,
        model_builder: Builder | Conf | None = None,
        conf: Conf | Builder | None = None,
        *,
        teacher_model: Any = None,
        train_func: Callable[[Any], Any] | None = None,
        eval_func: Callable[[Any], Any] | None = None,
    ) -> None:
        messages.speak_by_default()
        given: tuple[Any, Any] = (model_builder, conf)
        if callable(conf) or not (model_builder is None or callable(model_builder)):
            given = (conf, model_builder)
        self.model_builder: Any = given[0]
        self.teacher_model = teacher_model
        self.train_func, self.eval_func = train_func, eval_func
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        self.example_inputs: Any = None
        self._course: Course | None = None
        self._sampler: Any = None
        self._result: SearchResult | None = None
        self._best_arch: dict[str, Any] | None = None
        self.config = given[1]

    @property
    def config(self) -> DistillationConf:
        """The configuration; setting another one leaves the study that is open."""
        return self._conf

    @config.setter
    def config(self, conf: Conf | None) -> None:
        self.close()
        self._course = None
        if not isinstance(conf, DistillationConf):
            conf = DistillationConf(as_configuration(conf) if isinstance(conf, Mapping) else conf)
        self._conf = conf

    @property
    def settings(self) -> AutoDistillationSettings:
        """The section ``auto_distillation`` of the configuration; its defaults where there is none."""
        return self.config.settings.auto_distillation or AutoDistillationSettings()

    @property
    def search_space(self) -> dict[str, Any]:
        """The parameters and their values, as a configuration writes them; setting another one checks it."""
        path = f"{_SEARCH}.search_space"
        return dict(self.config[path]) if self.config.has(path) else {}

    @search_space.setter
    def search_space(self, space: Mapping[str, Any]) -> None:
        self._change("search_space", dict(space))

    @property
    def advisor(self) -> Any:
        """The name of the search algorithm, or the Optuna sampler that was set in its place."""
        return self.settings.search.search_algorithm if self._sampler is None else self._sampler

    @advisor.setter
    def advisor(self, advisor: Any) -> None:
        is_name = isinstance(advisor, str)
        if is_name:
            self._change("search_algorithm", advisor)
        elif not hasattr(advisor, "sample_relative"):
            raise UsageError(f"advisor is the name of an algorithm or a sampler of Optuna's, not {advisor!r:.80}")
        self._sampler = None if is_name else advisor
        self.config = self.config

    @property
    def search_result(self) -> SearchResult:
        """All candidates of the study as far as this process knows them; see `SearchResult`."""
        if self._result is not None:
            return self._result
        candidates = [] if self._course is None else self._course.candidates
        return SearchResult(candidates, self.settings.search, self.study_name)

    @search_result.setter
    def search_result(self, result: SearchResult | None) -> None:
        self._result = result

    @property
    def best_model_arch(self) -> dict[str, Any] | None:
        """The parameters of the best candidate; None while none is complete."""
        return self.search_result.best_model_arch if self._best_arch is None else self._best_arch

    @best_model_arch.setter
    def best_model_arch(self, arch: Mapping[str, Any] | None) -> None:
        self._best_arch = None if arch is None else dict(arch)

    @property
    def study_name(self) -> str:
        """The name of the study in its storage: ``study_name``, or the model's name."""
        return self.settings.search.study_name or self.config.settings.model.name

    @property
    def folder(self) -> Path:
        """Where weights and results go: the run's folder, or below it where the study has a name of its own."""
        name = self.settings.search.study_name
        return self.config.workspace if name is None else self.config.workspace / name

    def close(self) -> None:
        """Leave the study; what was found stays readable, and another search opens it again."""
        if self._course is not None:
            self._course.close()

    def _change(self, key: str, value: Any) -> None:
        """Change the configuration of the search; the study is opened anew."""
        conf = DistillationConf(self.config)
        conf[f"{_SEARCH}.{key}"] = value
        self.config = conf
