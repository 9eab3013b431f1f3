"""Plain tables and times for people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime

from meshwright.cli.lines import printable

GAP = "  "
MIN_COLUMN = 8  # characters that a shortened column keeps
MORE = "…"


def terminal_width() -> int | None:
    """The characters of a line of the terminal; None where stdout is none, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shorten: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Columns as wide as what they hold.

    Where they are wider than `width` (by default the terminal) those in `shorten` give way, the first first:
    ids and times by their beginning, any other by its end. The last column gives way after them.
    """
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    width = width or terminal_width()
    if width is not None:
        _narrow(widths, [*(heads.index(name) for name in shorten), len(heads) - 1], width)
    lines = (
        GAP.join(
            fitted(cell, room, from_end=head in TELL_BY_END).ljust(room)
            for head, cell, room in zip(heads, row, widths, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip()[:width] for line in lines)


TELL_BY_END = frozenset({"created", "key", "task"})
"""Columns whose values differ at their end."""


def _narrow(widths: list[int], order: Sequence[int], width: int) -> None:
    """Take from the columns, in this order, what is too much."""
    for column in order:
        excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
        if excess > 0:
            widths[column] = max(widths[column] - excess, min(widths[column], MIN_COLUMN))


def fitted(cell: str, room: int, *, from_end: bool = False) -> str:
    """A cell within its room; `from_end` keeps its end, from the last word that fits."""
    if len(cell) <= room:
        return cell
    if from_end:
        return f"{MORE}{cell[len(cell) - room + 1 :].rpartition(' ')[2]}"
    return f"{cell[: room - 1].rstrip(' ,')}{MORE}"


def clipped(line: str, width: int | None) -> str:
    """A line that fits the width, if there is one; cut after a word where it is too long."""
    if width is None or len(line) <= width:
        return line
    head = line[: width - len(MORE)]
    return f"{head.rsplit(None, 1)[0] if ' ' in head.strip() else head}{MORE}"


def local_time(text: str | None) -> str:
    """An RFC 3339 time as `2026-11-20 09:31:02` of this machine's zone."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""
