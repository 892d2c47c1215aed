"""The parts of `python -m benchmarks`, in the page's order: which module measures and where it can run.

A part's module takes ``--threads`` and ``--json FILE``. Its page module has `section(figures)`, the text of the
page, and may have `goals(figures)`. Page modules import nothing that the main environment lacks.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple


class Part(NamedTuple):
    """One part.

    Attributes:
        name: of the module that measures, and of the file of its figures.
        environment: where it runs: ``main``, ``peers`` or ``ipex``.
        page: the module with its section; the measuring one where it is empty.
    """

    name: str
    environment: str = "peers"
    page: str = ""

    def module(self) -> ModuleType:
        """The module with the section."""
        return import_module(f"benchmarks.{self.page or self.name}")

    def here(self) -> bool:
        """Whether this release has it."""
        return find_spec(f"benchmarks.{self.name}") is not None


ALL = (
    Part("whole_run", page="whole_page"),
    Part("teacher_cost"),
    Part("hidden_layer"),
    Part("cached_run"),
    Part("cache_hook"),
    Part("cache"),
    Part("step_cost"),
    Part("intermediate"),
    Part("chunked_loss"),
    Part("ledger"),
    Part("ipex", environment="ipex", page="ipex_page"),
    Part("tensorflow_step", environment="main", page="tensorflow_page"),
)


def parts() -> list[Part]:
    """Those that are there."""
    return [part for part in ALL if part.here()]
