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
        quick: settings that only try the program.
    """

    name: str
    environment: str = "peers"
    page: str = ""
    quick: tuple[str, ...] = ("--rounds", "2")

    def module(self) -> ModuleType:
        """The module with the section."""
        return import_module(f"benchmarks.{self.page or self.name}")

    def here(self) -> bool:
        """Whether this release has it."""
        return find_spec(f"benchmarks.{self.name}") is not None


_WHOLE = (
    "--seeds 1 --epochs 2 --rows 256 --text-rows 128 --width 16 --depths 8 14 --teacher-rows 128 --teacher-epochs 1"
)
_SMALL = ("--rounds", "2", "--depths", "8", "14")

ALL = (
    Part("whole_run", page="whole_page", quick=(*_WHOLE.split(), "--keep-in", ".kdhooks/benchmarks/quick")),
    Part("teacher_cost", quick=(*_SMALL, "--batch", "16")),
    Part("hidden_layer", quick=("--rounds", "2", "--small")),
    Part("cached_run", quick=(*_SMALL, "--rows", "128")),
    Part("cache_hook", quick=("--rounds", "40")),
    Part("cache", quick=("--rounds", "3", "--rows", "5000")),
    Part("step_cost"),
    Part("intermediate"),
    Part("adaptation_step", quick=("--rounds", "2", "--depth", "8", "--batch", "4")),
    Part("chunked_loss", quick=("--repeats", "1", "--tokens", "256", "--vocabulary", "500", "--hidden", "32")),
    Part("ledger"),
    Part("trainers", environment="main", quick=("--steps", "4", "--rounds", "2")),
    Part("transfer", environment="main", quick=("--rounds", "2", "--millions", "0.2")),
    Part("ipex", environment="ipex", page="ipex_page", quick=("--rounds", "2", "--quick")),
    Part("tensorflow_step", environment="main", page="tensorflow_page", quick=("--rounds", "2", "--small-steps", "10")),
)


def parts() -> list[Part]:
    """Those that are there."""
    return [part for part in ALL if part.here()]
