"""``kdhooks search``: searches for the student, or shows what a search has found."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from kdhooks.cli import actions, factories
from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError
from kdhooks.messages import is_rank_zero

_OPTIONS = {"trials": "max_trials", "storage": "storage", "study": "study_name"}
"""Options of the command line by the keys of ``auto_distillation.search`` that they set."""


def search(arguments: Namespace) -> int:
    """Search until trials, time or the space are used up; or show an existing study."""
    with actions.messages():
        agent = _agent(arguments)
        if arguments.report:
            if not agent.look():
                name, settings = agent.study_name, agent.settings.search
                where = f"of the folder {agent.folder}" if settings.storage is None else "of that storage"
                raise UsageError(f"the study {name!r} {where} has no candidate yet, so there is nothing to show")
        else:
            try:
                agent.search_loop()
            except KeyboardInterrupt:
                _tell_how_to_go_on(agent)
                return 130
        if is_rank_zero():
            _show(agent)
    return 0


def _agent(arguments: Namespace) -> Any:
    """The `AutoDistillation` that the arguments describe."""
    from kdhooks.search import AutoDistillation

    named = {"--builder": arguments.builder, "--train": arguments.train, "--eval": arguments.eval}
    if arguments.builder is None and not arguments.report:
        raise UsageError("--builder is missing: name the function that makes a model of an architecture")
    modules = [name.partition(":")[0] for name in (*named.values(), *arguments.teacher) if name and ":" in name]
    with actions.framework("a model"):
        actions.import_modules(modules)
        actions.import_modules(arguments.modules)
        conf = _configuration(arguments)
        builder, train, judge = (
            None if name is None else factories.make_function(name, option) for option, name in named.items()
        )
        actions.seed_first_weights(conf)
        teacher = actions.teacher_of(arguments)
    return AutoDistillation(builder, conf, teacher_model=teacher, train_func=train, eval_func=judge)


def _configuration(arguments: Namespace) -> DistillationConf:
    """The file, with the changes of the command line."""
    arguments.workspace = None if arguments.out is None else str(arguments.out)
    conf = actions.configuration(arguments)
    if conf.settings.auto_distillation is None:
        raise conf.problem("", "there is no section auto_distillation", "Write auto_distillation: {search: ...}.")
    for option, key in _OPTIONS.items():
        value = getattr(arguments, option)
        if value is not None:
            conf[f"auto_distillation.search.{key}"] = value
    return conf


def _show(agent: Any) -> None:
    """The table, and where everything is."""
    result = agent.search_result
    print(f"\n{result.table()}")
    folder: Path = result.save(agent.folder)
    best = result.best
    if best is not None and best.weights is not None:
        print(f"weights of the best: {best.weights}")
    print(f"report: {folder / 'report.html'}")


def _tell_how_to_go_on(agent: Any) -> None:
    count = sum(one.state != "running" for one in agent.search_result.candidates)
    found = "1 candidate is" if count == 1 else f"{count} candidates are"
    recorded = f"{found} recorded in the study {agent.study_name!r}"
    print(f"kdhooks search: interrupted; {recorded}, and the same command goes on", file=sys.stderr)
