"""Figures of several rounds, and the rows that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One measure over several rounds: shown as its median, with the spread."""

    values: Sequence[float]
    unit: str = ""
    digits: int = 0

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        return f"{self._text(self.median)}{self._spread()}{f' {self.unit}' if self.unit else ''}"

    def _spread(self) -> str:
        low, high = self._text(min(self.values)), self._text(max(self.values))
        return f" ({low}..{high})" if low != high else ""

    def _text(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table. `met` is None where there is no target, or it was not measured."""

    what: str
    ours: Figure | str
    floor: Figure | str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None
    note: str = ""


def column(rounds: Sequence[dict[str, float]], name: str, unit: str = "", digits: int = 0) -> Figure:
    """One field of what each round gave."""
    return Figure([each[name] for each in rounds], unit, digits)


def ratio(ours: Figure, floor: Figure) -> float:
    """The median of the rounds' ratios: what disturbed a round disturbed both of its sides."""
    return median(mine / theirs for mine, theirs in zip(ours.values, floor.values, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def compared(
    what: str,
    ours: Figure,
    floor: Figure,
    *,
    target: str = "",
    meets: Callable[[float, float], bool] | None = None,
    note: str = "",
) -> Row:
    """A row that compares both sides; `meets` judges the ratio and our median."""
    share = ratio(ours, floor)
    met = meets(share, ours.median) if meets else None
    return Row(what, ours, floor, f"{share:.2f}", target, met, note)
