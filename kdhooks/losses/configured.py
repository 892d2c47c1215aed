"""Options of losses in a configuration, checked against the functions that take them, with the line of each."""

from __future__ import annotations

from collections.abc import Mapping

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.losses.tables import LossTables


def check_options(named: Named, conf: DistillationConf, tables: LossTables) -> None:
    """Raise the first option of a criterion's ``loss_types`` that its loss doesn't have.

    Args:
        named: the criterion.
        conf: where it stands.
        tables: of the backend.

    Raises:
        ConfigError: it points at the option.
        UsageError: a loss that the backend doesn't have.
    """
    given = named.options.get("loss_types", ())
    path = f"{named.path}.loss_types"
    several = (
        [(f"{path}[{index}]", one) for index, one in enumerate(given)] if isinstance(given, tuple) else [(path, given)]
    )
    faulty = tables.logit_option_fault if named.name == "KnowledgeDistillationLoss" else tables.feature_option_fault
    for where, one in several:
        for name, options in one.items() if isinstance(one, Mapping) else ():
            for option in options:
                fault = faulty(name, option)
                if fault is not None:
                    raise conf.problem(f"{where}.{name}.{option}", *fault, of_key=True)
