"""What every test shares: fixed seeds, one thread, hypothesis without chance or clocks.

Nothing here imports a framework, so that the tests of the core run without one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy
import pytest

import kdhooks.registry  # the tables that users add to exist before the first test looks at them
from kdhooks.names import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the first import of torch, which reads it once

# Ctrl-C is ignored in what a shell starts with & or nohup, and in all that it starts in turn.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("kdhooks", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("kdhooks")


APART = ("tests/docs/", "tests/examples/", "tests/system/")
"""Folders whose files are long and whose tests share little."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n`, the tests of a file run in one process, so that what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(APART) else nodeid.split("::", 1)[0]

    config.option.loadscopereorder = False  # the folders that are cut finest stand last, and fill both ends
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same generators, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture
def registrations_end_with_the_test() -> Iterator[None]:
    """Every table of names, to which registering adds for the whole process, is afterwards as it was before."""
    modules = [module for name, module in sys.modules.items() if name.startswith("kdhooks")]
    tables = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Table)}
    assert id(kdhooks.registry.REGISTERED_LOSSES) in tables
    before = [
        (table, {name: value.copy() if isinstance(value, dict) else value for name, value in vars(table).items()})
        for table in tables.values()
    ]
    yield
    for table, held in before:
        vars(table).update(held)
