"""What the built-in loop's parts have in common before a framework makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.names import did_you_mean


def located(conf: DistillationConf, path: str, build: Callable[[], Any]) -> Any:
    """What `build` returns; a `UsageError` of it gets the place in the configuration that it is about."""
    try:
        return build()
    except UsageError as error:
        raise conf.problem(path, str(error)) from None


def looks_inside(distiller: Any) -> bool:
    """Whether a run that may end the student's forward early has a loss that looks at nothing but layers.

    The loop's own loss has weight 0 then, so it need not be computed, and is no component of the run.
    """
    criteria = distiller.summed_criteria()
    if not distiller.ends_early or len(criteria) != 1 or getattr(criteria[0], "looks_at_output", True):
        return False
    distiller.leave_out_own_loss()
    return True


def resumed(workspace: Path, resume: bool | str, name: str) -> Path | None:
    """The file to continue; with ``resume: true`` only where there is one.

    Args:
        workspace: the run's folder.
        resume: of the configuration; a text is a file, or a folder with one.
        name: of checkpoints.
    """
    if isinstance(resume, str):
        return Path(resume) / name if Path(resume).is_dir() else Path(resume)
    path = workspace / name
    if not resume:
        return None
    if not path.exists():
        logger.info("there is no checkpoint at %s yet: the run begins anew", path)
        return None
    return path


def named_options(
    conf: DistillationConf, named: Named, what: str, parameters: list[str], spellings: Mapping[str, str]
) -> dict[str, Any]:
    """The options of a name as its class calls them.

    Args:
        conf: the configuration, for the places of problems.
        named: the name with its options.
        what: the class, for messages.
        parameters: what the class takes.
        spellings: the configuration's names of parameters that are called otherwise.

    Raises:
        ConfigError: an unknown option, or one that is given twice.
    """
    own = {value: key for key, value in spellings.items()}
    options: dict[str, Any] = {}
    for key, value in named.options.items():
        name = spellings.get(key, key)
        path = f"{named.path}.{key}" if key else named.path
        if name not in parameters:
            known = [own.get(parameter, parameter) for parameter in parameters]
            message = f"{what} has no option {key!r}" if key else f"{what} needs its options by name"
            raise conf.problem(path, message, did_you_mean(key, known, what="Its options"), of_key=bool(key))
        if name in options:
            message = f"is given twice, as {own[name]} and as {name}"
            raise conf.problem(path, message, "Keep one of them.", of_key=True)
        options[name] = value
    return options
