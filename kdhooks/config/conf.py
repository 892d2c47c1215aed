"""`DistillationConf`: a small mutable view over frozen settings.

Every change is checked with the rules of a file, all at once, and leaves the old settings in place
where it is wrong. The user's file is never written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdhooks.config.loader import read_yaml
from kdhooks.config.model import Settings
from kdhooks.config.rules import Rule
from kdhooks.config.schema import ROOT, check, describe
from kdhooks.config.sections import Names, Section
from kdhooks.config.source import Source, from_python, join, parent, plain
from kdhooks.config.written import written
from kdhooks.errors import ConfigError, UsageError, shown
from kdhooks.names import closest, did_you_mean, fold

_PART = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")
_MISSING = object()


class DistillationConf:
    """A configuration: read from a file or a dict, checked, and open to changes.

    Args:
        source: the path of a YAML file, a mapping of the same form, another `DistillationConf` (which
            is copied), or None for the defaults.

    Attributes:
        settings: the frozen settings, with every default filled in.
        source: the file's name as it was given, or ``<dict>``.

    Raises:
        ConfigError: with all problems, in the order of the file.
        UsageError: `source` is none of these.

    Example:
        >>> conf = DistillationConf({"distillation": {"train": {"end_epoch": 3}}})
        >>> conf["distillation.train.end_epoch"] = 5
        >>> conf.distillation.train.end_epoch, conf.settings.distillation.train.frequency
        (5, 1)
    """

    _source: Source
    _settings: Settings

    def __init__(self, source: str | Path | Mapping[str, Any] | DistillationConf | None = None) -> None:
        if isinstance(source, DistillationConf):
            self._source, self._settings = source._source, source._settings
            return
        if isinstance(source, (str, Path)):
            given = read_yaml(source)
        elif source is None or isinstance(source, Mapping):
            given = from_python({} if source is None else source)
        else:
            raise UsageError(f"expected the path of a YAML file, a dict or a DistillationConf, got {shown(source)}")
        self._settings = check(given)
        self._source = given

    @property
    def settings(self) -> Settings:
        """The frozen settings, with every default filled in."""
        return self._settings

    @property
    def source(self) -> str:
        """The file's name as it was given, or ``<dict>``."""
        return self._source.name

    @property
    def workspace(self) -> Path:
        """The run's folder: ``tuning.workspace.path``, or ``.kdhooks/`` and the model's name."""
        return Path(self._settings.tuning.workspace or Path(".kdhooks", self._settings.model.name))

    def problem(self, path: str, message: str, suggestion: str = "", *, of_key: bool = False) -> ConfigError:
        """The error to raise for a problem that only a backend can find; it points at the user's line.

        Args:
            path: for example that of a `Named`; the nearest path above it is shown where it has no line.
            message: what is wrong, in one sentence without a full stop.
            suggestion: one thing to do about it.
            of_key: whether the key itself is wrong, not its value.
        """
        return ConfigError([self._source.problem(path, message, suggestion, of_key=of_key)])

    def with_settings(self, settings: Settings) -> DistillationConf:
        """A copy with other settings, made from these; problems are still shown where this configuration has them."""
        twin = DistillationConf(self)
        twin._settings = settings
        return twin

    def to_dict(self) -> dict[str, Any]:
        """What was configured, without defaults, as a new dict; `DistillationConf` reads it again."""
        copied: dict[str, Any] = plain(self._source.data)
        return copied

    def to_yaml(self) -> str:
        """The file's own text, or where there is none or something was changed, what was configured as YAML.

        Passwords in URLs are left out, since the text is for people and stands in a run's record.
        """
        return written(self._source)

    def has(self, path: str) -> bool:
        """Whether something is configured at a path, an empty section too."""
        return _configured(self._source.data, _parts(path)) is not _MISSING

    def __getitem__(self, path: str) -> Any:
        """What was configured at a path, or its default; mappings and lists are copies.

        Raises:
            ConfigError: there is no such key, or an option that was not set.
        """
        value = _configured(self._source.data, _parts(path))
        if value is None or value is _MISSING:
            default = _default(self._source.data, _parts(path))
            value = default if value is _MISSING or isinstance(default, Mapping) else None
        if value is _MISSING:
            beside = [described.path for described in describe() if parent(described.path) == parent(path)]
            near = closest(path, beside)
            raise self.problem(path, "is not set", f"Did you mean {near!r}?" if near else "")
        return plain(value)

    def __setitem__(self, path: str, value: Any) -> None:
        """Set what stands at a path; everything is checked again.

        Raises:
            ConfigError: with all problems; the old value stays.
        """
        self._change(path, plain(value))

    def __delitem__(self, path: str) -> None:
        """Go back to the default at a path.

        Raises:
            ConfigError: what remains does not fit together; the old value stays.
        """
        self._change(path, _MISSING)

    def __getattr__(self, name: str) -> Any:
        return _attribute(self, "", name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif ROOT.key(name) is None:
            raise AttributeError(f"a configuration has no section {name!r}. {_sections(name)}")
        else:
            self[name] = value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(key.name for key in ROOT.keys)})

    def __repr__(self) -> str:
        return f"DistillationConf({self._source.name!r})"

    def _change(self, path: str, value: Any) -> None:
        parts = _parts(path)
        data = self.to_dict()
        holder: Any = data
        for depth, part in enumerate(parts[:-1], start=1):
            inner = _configured(holder, [part])
            if inner is None or inner is _MISSING:
                inner = {}
                self._put(holder, parts[:depth], inner)
            if not isinstance(inner, (dict, list)):
                message = f"is set to {shown(inner)}, so nothing can be set inside of it"
                raise self.problem(_path(parts[:depth]), message)
            holder = inner
        self._put(holder, parts, value)
        given = self._source.assign(_path(parts), data)
        self._settings = check(given)
        self._source = given

    def _put(self, holder: Any, parts: Sequence[str | int], value: Any) -> None:
        try:
            _put(holder, parts[-1], value)
        except (LookupError, TypeError):
            raise self.problem(_path(parts), "is not there, so it cannot be changed") from None


class View:
    """A section of a `DistillationConf` by attributes; it holds nothing itself."""

    def __init__(self, conf: DistillationConf, path: str) -> None:
        object.__setattr__(self, "_conf", conf)
        object.__setattr__(self, "_path", path)

    def __getattr__(self, name: str) -> Any:
        return _attribute(self._conf, self._path, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._conf[join(self._path, name)] = value

    def __delattr__(self, name: str) -> None:
        del self._conf[join(self._path, name)]

    def __eq__(self, other: object) -> bool:
        mine = self._conf[self._path]
        return bool(mine == (other._conf[other._path] if isinstance(other, View) else other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self._path}: {self._conf[self._path]!r}"


def _attribute(conf: DistillationConf, path: str, name: str) -> Any:
    """A value by attribute: a `View` where more can follow."""
    if name.startswith("_"):  # copy, pickle and inspect ask for names that no configuration has
        raise AttributeError(name)
    where = join(path, name)
    try:
        value = conf[where]
    except ConfigError:
        advice = "" if path else f" {_sections(name)}"
        raise AttributeError(f"nothing is configured at {where!r}.{advice}") from None
    return View(conf, where) if isinstance(value, Mapping) or _is_section(where) else value


def _sections(name: str) -> str:
    return did_you_mean(name, [key.name for key in ROOT.keys], what="Sections")


def _parts(path: str) -> list[str | int]:
    """The keys and indices of a path.

    >>> _parts("distillation.train.criterion[0]")
    ['distillation', 'train', 'criterion', 0]
    """
    parts = [int(index) if index else key for key, index in _PART.findall(path)]
    if not parts or _path(parts) != path:
        raise UsageError(f"{path!r} is no path of a configuration, as 'distillation.train.end_epoch' is one")
    return parts


def _path(parts: Sequence[str | int]) -> str:
    path = ""
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else join(path, part)
    return path


def _configured(data: Any, parts: Sequence[str | int]) -> Any:
    """What stands in the data, or `_MISSING`; a step of a schedule is a number as a key."""
    for part in parts:
        if isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif isinstance(data, Mapping) and (part in data or (str(part).isdecimal() and int(part) in data)):
            data = data[part if part in data else int(part)]
        else:
            return _MISSING
    return data


def _put(holder: Any, part: str | int, value: Any) -> None:
    """Set a key or index, or delete it where the value is `_MISSING`."""
    if isinstance(holder, dict) and part not in holder and str(part).isdecimal():
        part = int(part)
    if isinstance(holder, list) != isinstance(part, int) and not isinstance(holder, dict):
        raise TypeError(part)
    if value is not _MISSING:
        holder[part] = value
    elif isinstance(holder, list):
        del holder[int(part)]
    else:
        holder.pop(part, None)


def _default(data: Any, parts: Sequence[str | int]) -> Any:
    """What holds where nothing is configured, or `_MISSING`."""
    rule: Rule | None = ROOT
    value: Any = {}
    for part in parts:
        options = rule.options if isinstance(rule, Names) else {}
        named = next((section for name, section in options.items() if fold(name) == fold(str(part))), None)
        if isinstance(rule, Section):
            key = rule.key(part)
            if key is None:
                return _MISSING
            value, rule = key.default_in(data if isinstance(data, Mapping) else {}), key.rule
        elif named is not None:
            value, rule = {}, named
        else:
            value, rule = _configured(value, [part]), None
        data = _configured(data, [part])
    return value


def _is_section(path: str) -> bool:
    rule: Rule | None = ROOT
    for part in _parts(path):
        key = rule.key(part) if isinstance(rule, Section) else None
        rule = key.rule if key else None
    return isinstance(rule, Section)


def load(source: str | Path | Mapping[str, Any] | DistillationConf | None = None) -> Settings:
    """The settings of a file or a dict; see `DistillationConf`."""
    return DistillationConf(source).settings
