"""What commands print: amounts, times and tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

Document = dict[str, Any]
"""One JSON object, as the HTTP API sends it."""

MAX_TEXT = 200  # characters of what a model, a tool or a person wrote
_SHORT_ID = 6
_GAP = "  "
_MIN_COLUMN = 8  # characters that a shortened column keeps
_MORE = "…"
_TOLD_BY_END = frozenset({"created", "key", "task"})
"""Columns whose values differ at their end."""


def document(model: BaseModel) -> Document:
    """A result of the client as plain data."""
    return model.model_dump(mode="json")


def documents(models: Sequence[BaseModel]) -> list[Document]:
    """Results of the client as plain data."""
    return [document(model) for model in models]


def echo_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def printable(text: str) -> str:
    """The text on one line, with spaces for what would steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def for_terminal(text: str) -> str:
    """A text without what would steer the terminal; lines and tabs stay."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def short(text: Any) -> str:
    """The beginning of a text that somebody else wrote, on one line."""
    line = " ".join(printable(str(text)).split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}{_MORE}"


def short_id(task_id: Any) -> str:
    """The end of an id: tasks of the same minutes begin alike."""
    text = str(task_id)
    return f"{_MORE}{text[-_SHORT_ID:]}" if len(text) > _SHORT_ID + 4 else text


def seconds(duration_ms: Any) -> str:
    """A duration: `0.58 s`."""
    return f"{(duration_ms or 0) / 1000:.2f} s"


def dollars(cost_usd: Any) -> str:
    """A cost: `$0`, `$0.0012`, or `$?` if nobody knows the price."""
    if cost_usd is None:
        return "$?"
    cost = Decimal(str(cost_usd))
    return "$0" if not cost else f"${cost:.4f}" if cost >= Decimal("0.0001") else "<$0.0001"


def tokens(usage: Any) -> str:
    """What a model read and wrote: `612 + 40 tokens`."""
    usage = usage or {}
    return f"{usage.get('prompt_tokens', 0):,} + {usage.get('completion_tokens', 0):,} tokens"


def number(value: Any) -> str:
    """A number without needless digits."""
    return f"{value:.3g}" if isinstance(value, (int, float)) else str(value)


def local_time(text: str | None) -> str:
    """An RFC 3339 time as `2026-11-20 09:31:02` of this machine's zone."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}" if text else ""


def terminal_width() -> int | None:
    """The characters of a line of the terminal; None if stdout is none, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shorten: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Columns as wide as what they hold.

    If they are wider than `width` (by default the terminal), the columns in `shorten` are cut in that order,
    ids and times at their beginning, all others at their end. The last column is cut after them.
    """
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    width = width or terminal_width()
    if width is not None:
        _narrow(widths, [*(heads.index(name) for name in shorten), len(heads) - 1], width)
    lines = (
        _GAP.join(
            fitted(cell, room, from_end=head in _TOLD_BY_END).ljust(room)
            for head, cell, room in zip(heads, row, widths, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip()[:width] for line in lines)


def _narrow(widths: list[int], order: Sequence[int], width: int) -> None:
    for column in order:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        if excess > 0:
            widths[column] = max(widths[column] - excess, min(widths[column], _MIN_COLUMN))


def fitted(cell: str, room: int, *, from_end: bool = False) -> str:
    """A cell cut to its room; `from_end` keeps its end, from the last word that fits."""
    if len(cell) <= room:
        return cell
    if from_end:
        return f"{_MORE}{cell[len(cell) - room + 1 :].rpartition(' ')[2]}"
    return f"{cell[: room - 1].rstrip(' ,')}{_MORE}"


def clipped(line: str, width: int | None) -> str:
    """A line cut to the width, if there is one, after a word."""
    if width is None or len(line) <= width:
        return line
    head = line[: width - len(_MORE)]
    return f"{head.rsplit(None, 1)[0] if ' ' in head.strip() else head}{_MORE}"
