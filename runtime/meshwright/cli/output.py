"""The output of commands: amounts, times and tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

    from meshwright.core.encoding import Struct

Document = dict[str, Any]
"""One JSON object, as the HTTP API sends it."""

MAX_TEXT = 200  # characters of what a model, a tool or a person wrote
_SHORT_ID = 6
_GAP = "  "
_MAX_DIGITS = 30  # of an amount
_MIN_COLUMN = 8  # characters that a shortened column keeps
_MORE = "…"
_LABEL_WIDTH = 11


def document(model: BaseModel | Struct) -> Document:
    """A result of the client as plain data."""
    return model.model_dump(mode="json")


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


def styled(text: str, **style: Any) -> str:
    """The text in colours; as it is where NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def redraw(lines: Sequence[str], drawn: int) -> int:
    """Print lines on the terminal over the `drawn` ones before them; returns how many were printed."""
    height = shutil.get_terminal_size().lines - 1
    shown = [*lines[: height - 1], _MORE] if len(lines) > height else lines
    up = f"\x1b[{drawn}A" if drawn else ""
    click.echo(f"\r{up}\x1b[J" + "\n".join(shown))
    return len(shown)


def seconds(duration_ms: Any) -> str:
    """A duration: `0.58 s`."""
    return f"{(duration_ms or 0) / 1000:.2f} s"


def dollars(cost_usd: Any) -> str:
    """A cost: `$0`, `$0.0012`, or `$?` if the price is unknown."""
    if cost_usd is None:
        return "$?"
    cost = Decimal(str(cost_usd))
    if not cost.is_finite() or abs(cost.adjusted()) > _MAX_DIGITS:
        return f"${cost}"  # as it is: written out it could have gigabytes
    return "$0" if not cost else f"${cost:.4f}" if cost >= Decimal("0.0001") else "<$0.0001"


def tokens(usage: Any) -> str:
    """The tokens that a model read and wrote: `612 + 40 tokens`."""
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


def _written(value: object) -> str:
    return str(value or "")


def file_line(file: Mapping[str, Any]) -> str:
    """A file in a few words: `chart.png (image/png, 12,345 bytes)`."""
    size = file.get("size")
    about = f"{size:,} bytes" if isinstance(size, int) else str(file.get("url") or "elsewhere")
    return printable(f"{file.get('name')} ({file.get('media_type')}, {about})")


def labelled(rows: Iterable[tuple[str, object]]) -> str:
    """A line for each row, with its label before it."""
    return "\n".join(f"{label:<{_LABEL_WIDTH}} {printable(str(text))}".rstrip() for label, text in rows)


class Column(NamedTuple):
    """One column of a table: a field of each item, or without one the whole item, and how it is written.

    A terminal shows no column without text. If it is narrow, the columns with a number in `cut` are shortened
    in that order to `least` characters, `from_end` at their beginning, the others at their end. The last
    column is shortened after them; where that is not enough, columns are left out in the same order, but for
    the first.
    """

    head: str
    field: str = ""
    write: Callable[[Any], str] = _written
    cut: int = 0
    from_end: bool = False
    least: int = _MIN_COLUMN

    def cell(self, item: Document) -> str:
        """The text of an item."""
        return printable(self.write(item.get(self.field) if self.field else item))


def show(found: Sequence[Document], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """Print a list: as JSON, as a table, or on stderr that it is empty."""
    if as_json:
        echo_json(found)
    elif found:
        click.echo(table(columns, found))
    else:
        click.echo(empty, err=True)


def table(columns: Sequence[Column], items: Sequence[Document], *, width: int | None = None) -> str:
    """A line for each item, in columns as wide as their cells, but no wider than the terminal."""
    width = width or terminal_width()
    cells = [[column.head, *(column.cell(item) for item in items)] for column in columns]
    if width is not None and len(
        empty := [place for place in range(1, len(cells)) if not any(cells[place][1:])]
    ):
        columns = [column for place, column in enumerate(columns) if place not in empty]
        cells = [cell for place, cell in enumerate(cells) if place not in empty]
    widths = [max(map(len, column)) for column in cells]
    if width is not None:
        cut = sorted((column.cut, place) for place, column in enumerate(columns) if column.cut)
        for _, place in (*cut, (0, len(columns) - 1)):
            excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
            if excess > 0:
                widths[place] = max(widths[place] - excess, min(widths[place], columns[place].least))
        dropped = next((columns[place] for _, place in cut if place), None)
        if dropped is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
            return table([column for column in columns if column is not dropped], items, width=width)
    lines = (
        _GAP.join(
            fitted(cell, room, from_end=column.from_end).ljust(room)
            for column, cell, room in zip(columns, row, widths, strict=True)
        )
        for row in zip(*cells, strict=True)
    )
    return "\n".join(line.rstrip()[:width] for line in lines)


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
