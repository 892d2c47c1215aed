"""Opens the study of a name in a storage: makes it, or proves that it is the one that is meant.

Two searches that differ in what they search for must not share a study; what may change between two runs is the
algorithm, how many candidates there are, and for how long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.proposals.space import Space
from kdhooks.search.quiet import quiet
from kdhooks.search.studies.book import Book
from kdhooks.search.studies.storages import Opened

_KEY = "kdhooks"  # of the description among the study's attributes
_VERSION = 1


def description(space: Space, settings: SearchSettings, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a study this one: plain JSON."""
    described = {
        "version": _VERSION,
        "search_space": space.describe(),
        "relations": [[each.left, each.comparison, each.right] for each in space.relations],
        "metrics": list(settings.metrics),
        "higher_is_better": list(settings.higher_is_better),
        "limits": [[each.metric, each.at_most, each.bound] for each in settings.limits],
        "seed": settings.seed,
        "identity": dict(identity),
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def open_book(
    conf: DistillationConf, opened: Opened, name: str, settings: SearchSettings, described: Mapping[str, Any]
) -> Book:
    """The book of the study with a name.

    Raises:
        ConfigError: the study of that name is of another search; the message says what differs.
    """
    from optuna.exceptions import DuplicatedStudyError
    from optuna.study import StudyDirection

    storage = opened.storage
    directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in settings.higher_is_better]
    with quiet():
        try:
            study_id = storage.create_new_study(directions, study_name=name)
        except DuplicatedStudyError:
            study_id = storage.get_study_id_from_name(name)
    found = storage.get_study_user_attrs(study_id).get(_KEY)
    if found is None and not storage.get_all_trials(study_id, deepcopy=False):
        # New, or its maker died before this line. Whoever comes at the same time writes the same, or sees below.
        storage.set_study_user_attr(study_id, _KEY, dict(described))
        found = storage.get_study_user_attrs(study_id).get(_KEY)
    if _differs_in_training(found, described) and not _has_records(storage, study_id):
        storage.set_study_user_attr(study_id, _KEY, dict(described))  # a mistake was mended before anything was trained
        found = described
    difference = _difference(found, described)
    if difference:
        key = "study_name" if conf.has("auto_distillation.search.study_name") else "storage"
        message = f"the study {name!r} in {opened.url} {difference}"
        advice = "Write another study_name for a new study"
        raise conf.problem(f"auto_distillation.search.{key}", message, advice)
    return Book(storage, study_id)


def _differs_in_training(found: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Whether two searches are the same but for how candidates are trained."""
    return found is not None and found != mine and {**found, "identity": mine["identity"]} == mine


def _has_records(storage: Any, study_id: int) -> bool:
    return any("candidate" in trial.user_attrs for trial in storage.get_all_trials(study_id, deepcopy=False))


def _difference(found: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> str:
    """What is different, in words; empty where nothing is."""
    if found is None:
        return "was not made by kdhooks"
    if found == mine:
        return ""
    if found.get("version") != _VERSION:
        return "was made by another version of kdhooks"
    if found["search_space"] != mine["search_space"]:
        return f"searched another space: {_spaces_differ(found['search_space'], mine['search_space'])}"
    for key, what in (
        ("relations", "other relations between parameters"),
        ("metrics", "other metrics"),
        ("higher_is_better", "another higher_is_better"),
        ("limits", "other limits"),
        ("seed", "another seed"),
    ):
        if found[key] != mine[key]:
            return f"has {what}: {_plain(found[key])}, and this search has {_plain(mine[key])}"
    return f"is of another search: {_mappings_differ(found['identity'], mine['identity'])}"


def _spaces_differ(found: list[dict[str, Any]], mine: list[dict[str, Any]]) -> str:
    theirs, ours = ({each["name"]: each for each in side} for side in (found, mine))
    for name in theirs:
        if name not in ours:
            return f"it has {name!r}, and this search has not"
    for name, each in ours.items():
        if name not in theirs:
            return f"it has no {name!r}"
        for key, what in (("values", ""), ("kind", "as "), ("log", "with log: "), ("when", "when ")):
            if theirs[name][key] != each[key]:
                one, other = _plain(theirs[name][key]), _plain(each[key])
                return f"it has {name!r} {what}{one}, and this search {what}{other}"
    return "it has its parameters in another order"


def _mappings_differ(found: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    for key in {**found, **mine}:
        if found.get(key) != mine.get(key):
            return f"{key} was {_plain(found.get(key))}, and is {_plain(mine.get(key))}"
    return "the order of its properties"


def _plain(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."
