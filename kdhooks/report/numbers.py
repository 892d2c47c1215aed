"""How the page writes numbers: each for a reader, with its unit and about three digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_LOWER = ("loss", "error", "perplexity", "ppl", "wer", "cer", "mse", "mae", "rmse", "nll", "entropy", "distance")
_SHARES = (
    *("accuracy", "acc", "top", "topk", "f1", "precision", "recall", "iou", "dice", "auc", "auroc"),
    *("wer", "cer", "error"),
)


def _speaks_of(name: str, words: Sequence[str]) -> bool:
    """Whether one of these words is in a name; short ones must stand alone, as ``wer`` does not in ``answer``."""
    parts = re.findall(r"[a-z]+\d*", name.lower())
    return any(
        word in (part, part.rstrip("0123456789")) or (len(word) > 4 and word in part)
        for part in parts
        for word in words
    )


def finite(value: Any) -> float | None:
    """A finite number, or None for all else that a record may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def number(value: float | None) -> str:
    """Three to four digits; a dash for what is not there.

    >>> number(0.03137), number(12345.6), number(2.0), number(3.2e-7), number(None)
    ('0.0314', '12,346', '2', '3.2e-07', '–')
    """
    if value is None:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share of one, with a digit where it matters.

    >>> percent(0.9823), percent(0.1204), percent(0.0004), percent(1.0), percent(0.99996), percent(12.0)
    ('98.2%', '12%', '0.04%', '100%', '99.99%', '1,200%')
    """
    value = 100 * share
    if value >= 100:
        return f"{value:,.1f}%".replace(".0%", "%")
    if value > 99.9:  # what is not all must not look like all
        return f"{math.floor(value * 100) / 100:.2f}%"
    if value >= 80:
        return f"{value:.1f}%"
    return f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


def times(ratio: float) -> str:
    """A factor.

    >>> times(4.123), times(12.7), times(1.0413), times(1300)
    ('4.1', '13', '1.04', '1,300')
    """
    return f"{ratio:.2f}" if ratio < 1.995 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:,.0f}"


def counted(count: int, one: str, many: str = "") -> str:
    """A number of things.

    >>> counted(1, "row"), counted(12000, "row"), counted(2, "class", "classes")
    ('1 row', '12,000 rows', '2 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def milliseconds(value: float) -> str:
    """A time that is given in ms.

    >>> milliseconds(0.0123), milliseconds(3.456), milliseconds(1234.5)
    ('12.3 µs', '3.46 ms', '1.23 s')
    """
    if value < 0.9995:
        return f"{value * 1e3:.3g} µs"
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1e3:.3g} s"


@dataclass(frozen=True)
class Metric:
    """How one metric is shown everywhere on the page.

    Attributes:
        name: as the run has it.
        higher: whether higher is better.
        factor: a shown number is the metric times this.
        unit: behind a shown number.
    """

    name: str
    higher: bool = True
    factor: float = 1.0
    unit: str = ""

    @classmethod
    def of(cls, name: str, values: Iterable[float], higher: bool | None = None) -> Metric:
        """Shares are shown in percent, whether the run has them up to 1 or up to 100.

        >>> Metric.of("accuracy", [0.91]).text(0.9137), Metric.of("accuracy", [91.4]).text(91.37)
        ('91.4%', '91.4%')
        >>> Metric.of("perplexity", [12.3]).text(12.345)
        '12.35'
        """
        known = list(values)
        share = _speaks_of(name, _SHARES) and bool(known) and min(known) >= 0 and max(known) <= 100
        higher = not _speaks_of(name, _LOWER) if higher is None else higher
        if not share:
            return cls(name, higher)
        return cls(name, higher, 100.0 if max(known) <= 1.0 else 1.0, "%")

    @property
    def label(self) -> str:
        """The name as people say it.

        >>> Metric("top1").label, Metric("topk").label, Metric("accuracy").label
        ('top-1 accuracy', 'top-k accuracy', 'accuracy')
        """
        found = re.fullmatch(r"top\W?(\d+|k)", self.name.lower())
        return f"top-{found[1]} accuracy" if found else self.name

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None:
            return "–"
        shown = value * self.factor
        digits = f"{shown:.1f}" if self.unit == "%" else f"{shown:.4g}"
        return f"{digits}{self.unit}"

    def apart(self, first: float, second: float) -> str:
        """How far the first lies from the second, without a sign; points where both are percents.

        >>> Metric.of("accuracy", [0.9]).apart(0.93, 0.951)
        '2.1 points'
        """
        gap = abs(first - second) * self.factor
        return f"{gap:.1f} {'point' if f'{gap:.1f}' == '1.0' else 'points'}" if self.unit == "%" else number(gap)
