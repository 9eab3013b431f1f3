"""Rows as text: for a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Row

HEADERS = ("what", "ours", "floor", "ratio", "target", "met")


def as_text(rows: Sequence[Row]) -> str:
    """Columns, with the notes below the rows that they belong to."""
    cells = [HEADERS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADERS))]
    lines = [_line(cells[0], widths), _line(["-" * width for width in widths], widths)]
    for row, line in zip(rows, cells[1:], strict=True):
        lines.append(_line(line, widths))
        if row.note:
            lines.append(f"    {row.note}")
    return "\n".join(lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """A table, and the notes as a list below it."""
    lines = [_markdown(HEADERS), _markdown(["---"] * len(HEADERS)), *(_markdown(_cells(row)) for row in rows)]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes])


def _cells(row: Row) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: ""}[row.met]
    return (row.what, str(row.ours), str(row.floor), row.ratio, row.target, met)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
