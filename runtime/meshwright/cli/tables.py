"""Plain tables and times for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from meshwright.cli.lines import printable


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what they hold; the last is left as it is."""
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in cells
    )


def local_time(text: str | None) -> str:
    """An RFC 3339 time as `2026-11-20 09:31:02` of this machine's zone."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""
