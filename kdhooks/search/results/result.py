"""What a search found: candidates, the Pareto set, the best architecture, as objects, table, JSON and page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kdhooks.config.search_settings import SearchSettings
from kdhooks.measurement.quantities import Quantity, quantity
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import best_of, pareto_set
from kdhooks.search.results.result_file import as_json, from_dict, read_json, to_dict, write_text
from kdhooks.search.results.table import markdown_table, text_table


class SearchResult:
    """The candidates of a search and what follows from them.

    It is made anew from a study's candidates whenever it is asked for; it changes nothing and needs no framework.

    Args:
        candidates: in any order, of any state; they are kept by number.
        settings: of the search: its metrics and directions, its space, how the best one is chosen.
        name: of the study, for headings.

    Example:
        >>> settings = SearchSettings(metrics=("accuracy", "latency"), higher_is_better=(True, False))
        >>> result = SearchResult([
        ...     Candidate(0, {"width": 8}, "complete", {"accuracy": 0.90, "latency": 0.001}, seconds=2.0),
        ...     Candidate(1, {"width": 16}, "complete", {"accuracy": 0.95, "latency": 0.002}, seconds=3.0),
        ...     Candidate(2, {"width": 32}, "complete", {"accuracy": 0.95, "latency": 0.009}, seconds=4.0),
        ...     Candidate(3, {"width": 64}, "failed", reason="the builder raised ValueError: width", seconds=0.1),
        ... ], settings, name="digits")
        >>> [candidate.number for candidate in result.pareto]
        [0, 1]
        >>> result.best_model_arch
        {'width': 16}
        >>> print(result.table())
        digits: BO, seed 42; 4 candidates in 9.1 s: 3 complete, 1 failed
              #  state     accuracy  latency  width  seconds
                                        [ms]
        *+    1  complete    0.9500    2.000     16      3.0
         +    0  complete    0.9000    1.000      8      2.0
              2  complete    0.9500    9.000     32      4.0
              3  failed                          64      0.1
        * the best: of the Pareto set the nearest to the ideal point; + the Pareto set
        failed: #3: the builder raised ValueError: width
    """

    def __init__(self, candidates: Sequence[Candidate], settings: SearchSettings, name: str = "") -> None:
        self.candidates = tuple(sorted(candidates, key=lambda candidate: candidate.number))
        self.settings = settings
        self.name = name

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        best = "no best yet" if self.best is None else f"best #{self.best.number}"
        return f"SearchResult({len(self)} candidates, {best})"

    @cached_property
    def pareto(self) -> tuple[Candidate, ...]:
        """The complete candidates that no other one equals or beats in every metric and beats in one, by number.

        All of those that are equal in every metric are in it. With one metric it is the best and its equals.
        """
        return pareto_set(self.candidates, self.settings)

    @cached_property
    def pareto_numbers(self) -> frozenset[int]:
        """The numbers of the Pareto set."""
        return frozenset(candidate.number for candidate in self.pareto)

    @cached_property
    def best(self) -> Candidate | None:
        """The best candidate by the rule ``best_by`` (see docs/search.md); None while none is complete."""
        return best_of(self.candidates, self.settings)

    @property
    def best_model_arch(self) -> dict[str, Any] | None:
        """The parameters of the best candidate; None while none is complete."""
        return None if self.best is None else dict(self.best.arch)

    @property
    def best_metrics(self) -> dict[str, float] | None:
        """The metrics of the best candidate, those of the search first; None while none is complete."""
        if self.best is None:
            return None
        first = {name: self.best.metrics[name] for name in self.settings.metrics}
        return {**first, **self.best.metrics}

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """The parameters in the order of the search space, then those that only candidates have."""
        space = [dimension.name for dimension in self.settings.search_space]
        return _names([space, *(candidate.arch for candidate in self.candidates)])

    @cached_property
    def quantities(self) -> dict[str, Quantity]:
        """Unit and digits of every metric in all that shows this result: those of the search first."""
        names = _names([self.settings.metrics, *(candidate.metrics for candidate in self.candidates)])
        values = {name: [row.metrics[name] for row in self.candidates if name in row.metrics] for name in names}
        return {name: quantity(name, values[name]) for name in names}

    def table(self, *, top: int = 20, width: int = 120) -> str:
        """The candidates as a text table, the best ones first.

        Args:
            top: rows at most; a line says what the others are.
            width: characters of a line at most; parameters that find no place are named below.
        """
        return text_table(self, top=top, width=width)

    def markdown(self) -> str:
        """All candidates as a Markdown table with every parameter and metric, the best ones first."""
        return markdown_table(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data of the form that docs/search.md describes: lists, mappings, texts, finite numbers."""
        return to_dict(self.candidates, self.settings, self.name, best=self.best, pareto=self.pareto)

    @classmethod
    def from_dict(cls, content: Any) -> SearchResult:
        """What `as_dict` returned, as a result again.

        Raises:
            DataError: it is of another form, or of a newer version.
        """
        return cls(*from_dict(content, "the mapping"))

    def to_json(self, path: str | Path) -> Path:
        """Write `as_dict` to a file; a reader sees the old file or the whole new one. Returns its path."""
        return write_text(Path(path), as_json(self.as_dict()))

    @classmethod
    def from_json(cls, path: str | Path) -> SearchResult:
        """Read a file that `to_json` or `save` wrote.

        Raises:
            DataError: there is no such file, or it is no result of a search, or of a newer version.
        """
        return cls(*from_dict(read_json(Path(path)), str(path)))

    def html(self) -> str:
        """One page with plots, the table and the configuration; it loads nothing and runs no script."""
        from kdhooks.search.results.page import page

        return page(self)

    def save(self, folder: str | Path) -> Path:
        """Write ``result.json``, ``table.txt``, ``table.md`` and ``report.html``; each is replaced as a whole.

        Returns:
            The folder, which is made where it is missing.
        """
        folder = Path(folder)
        self.to_json(folder / "result.json")
        write_text(folder / "table.txt", f"{self.table(top=len(self) or 1)}\n")
        write_text(folder / "table.md", f"{self.markdown()}\n")
        write_text(folder / "report.html", self.html())
        return folder


def _names(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
