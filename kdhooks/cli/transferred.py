"""``kdhooks transfer``: what weights would become of a configuration, before a run."""

from __future__ import annotations

import logging
from argparse import Namespace

from kdhooks.cli import actions, factories
from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.transfer import TransferReport


def report(arguments: Namespace) -> int:
    """Print the report of the transfer that a run would begin with; nothing is kept."""
    distiller = actions.distiller_of(arguments)
    if arguments.pretrained is not None:
        distiller.pretrained_model = factories.make_model(arguments.pretrained)
    level = logger.level
    logger.setLevel(logging.WARNING)  # a run says the same, and here it is the result
    try:
        done = getattr(distiller.backend.finetuning(distiller, None, False), "done", None)
    finally:
        logger.setLevel(level)
    if done is None:
        raise UsageError("nothing is transferred: write finetune.pretrained, or name a model with --pretrained")
    found: TransferReport = done.report
    print(found.to_json() if arguments.json else found.text(everything=arguments.everything))
    return 0
