"""The terminal: tables, labels and events in lines for people, JSON for programs, and typed lines."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from meshwright.core.display import MORE, Column, Document, local_time, printable, short_id, time_of_day
from meshwright.core.errors import InvalidInput
from meshwright.core.event_lines import event_gist, event_text, event_word

if TYPE_CHECKING:
    from pydantic import BaseModel

    from meshwright.core.encoding import Struct

_GAP = "  "
_LABEL_WIDTH = 11
_MIN_ROOM = 20
_LONG_WORD = 20
_NARROW, _VERY_NARROW = 120, 80  # columns of a terminal
_NARROW_AGENT = 10  # characters
_TYPE_WIDTH, _TASK_WIDTH, _AGENT_WIDTH = 18, 7, 16
_CHUNK_BYTES = 65_536


def document(model: BaseModel | Struct) -> Document:
    """A result of the client as plain data."""
    return model.model_dump(mode="json")


def echo_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def echo(answer: object, text: str, *, as_json: bool) -> None:
    """Print an answer as JSON, or the text that reports it."""
    echo_json(answer) if as_json else click.echo(text)


def for_terminal(text: str) -> str:
    """A text without what would steer the terminal; lines and tabs stay."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def answer_text(text: str, *, raw: bool = False) -> str:
    """An answer: Markdown is drawn at a terminal, unless it is to be `raw`; elsewhere the text as it is."""
    if not sys.stdout.isatty():
        return text
    if raw or not is_screen():
        return for_terminal(text)
    from meshwright.console.markdown import rendered  # 6 ms, and few commands print an answer

    return rendered(text, shutil.get_terminal_size().columns)


def styled(text: str, **style: Any) -> str:
    """The text in colours; as it is where NO_COLOR is set."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def redraw(lines: Sequence[str], drawn: int) -> int:
    """Print lines on the terminal over the `drawn` ones before them; returns how many were printed."""
    height = shutil.get_terminal_size().lines - 1
    visible_lines = [*lines[: height - 1], MORE] if len(lines) > height else lines
    up = f"\x1b[{drawn}A" if drawn else ""
    click.echo(f"\r{up}\x1b[J" + "\n".join(visible_lines))
    return len(visible_lines)


def is_screen() -> bool:
    """Whether stdout is a terminal on which lines can be drawn over."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def answer_alone() -> AbstractContextManager[object]:
    """Sends what agents of this process print to stderr, unless stdout is a terminal."""
    return nullcontext() if sys.stdout.isatty() else redirect_stdout(sys.stderr)


def terminal_width() -> int | None:
    """The characters of a line of the terminal; None if stdout is none, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, *, indent: int) -> str:
    """A text that fits the terminal behind `indent` characters, broken between words alone."""
    room = max(shutil.get_terminal_size().columns - indent, _MIN_ROOM)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


def say(text: str, *, err: bool = False, indent: int = 0) -> None:
    """Print a sentence; on a terminal it is broken between words, and goes on `indent` further in."""
    if (sys.stderr if err else sys.stdout).isatty():
        head, rest = text[:indent], text[indent:]
        text = head + wrapped(rest, indent=indent)
    click.echo(text, err=err)


def labelled(rows: Iterable[tuple[str, object]]) -> str:
    """A line for each row, with its label before it; on a terminal text goes on below itself.

    A command stays on one line, so that it can be copied.
    """
    return "\n".join(f"{label:<{_LABEL_WIDTH}} {_beside_label(str(text))}".rstrip() for label, text in rows)


def _beside_label(text: str) -> str:
    line = printable(text)
    is_whole = terminal_width() is None or line.startswith("mesh ")
    return line if is_whole else wrapped(line, indent=_LABEL_WIDTH + 1)


def show(rows: Sequence[Document], columns: Sequence[Column], *, as_json: bool, empty: str) -> None:
    """Print a list: as JSON, as a table, or on stderr that it is empty."""
    if as_json:
        echo_json(rows)
    elif rows:
        click.echo(table(columns, rows))
    else:
        say(empty, err=True)


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
        dropped = next((columns[place] for _, place in cut[:-1] if place), None)  # the last to shrink stays
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
        return f"{MORE}{cell[len(cell) - room + 1 :].rpartition(' ')[2]}"
    return f"{cell[: room - 1].rstrip(' ,')}{MORE}"


def clipped(line: str, width: int | None) -> str:
    """A line cut to the width, if there is one, after a word, or within a long one."""
    if width is None or len(line) <= width:
        return line
    head = line[: width - len(MORE)]
    whole = head.rsplit(None, 1)[0] if " " in head.strip() else head
    return f"{head if len(head) - len(whole) > _LONG_WORD else whole}{MORE}"


class Line(NamedTuple):
    """A word for what happened, and the rest."""

    word: str
    text: str


def timeline_line(event: Document) -> Line | None:
    """The line of an event in the timeline of its task, or None if it is not worth one."""
    word = event_word(event)
    return Line(word, event_gist(event)) if word else None


def event_line(event: Document, width: int | None = None) -> str:
    """An event of the log: seq, time, type, task and agent, and what it says.

    `width` is that of the terminal, None if nothing is cut. A narrow one has no room for seq and date, a very
    narrow one none for the agent either.
    """
    narrow = width is not None and width < _NARROW
    task = short_id(event["task_id"]) if event.get("task_id") else ""
    agent = event.get("agent_id") or ""
    parts = [
        f"{event.get('seq') or '':>6}",
        time_of_day(event["time"]) if narrow else local_time(event["time"]),
        f"{event['event_type']:<{_TYPE_WIDTH}}",
        f"{task:<{_TASK_WIDTH}}",
        fitted(agent, _NARROW_AGENT).ljust(_NARROW_AGENT) if narrow else f"{agent:<{_AGENT_WIDTH}}",
        event_text(event),
    ]
    if width is not None and width < _VERY_NARROW:
        del parts[4]
    if narrow:
        del parts[0]
    return clipped("  ".join(parts).rstrip(), width)


class TypedLines:
    """The lines of stdin, from a terminal, a pipe or a file; the event loop runs on meanwhile."""

    has_ended = False

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        self._rest = b""

    async def next(self, prompt: str = "") -> str:
        """The next line, without its end; the prompt goes to stderr. Raises EOFError, InvalidInput."""
        click.echo(prompt, nl=False, err=True)
        while b"\n" not in self._rest and not self.has_ended:
            chunk = await self._read()
            self._rest += chunk
            self.has_ended = not chunk
        if not self._rest:
            raise EOFError
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InvalidInput("That line is not UTF-8") from None

    async def decision(self, text: str) -> Any:
        """The answer for a yes or a no, whose reason is asked for; else JSON. Raises InvalidInput."""
        if text.casefold() in ("y", "yes"):
            return {"approve": True}
        if text.casefold() in ("n", "no"):
            return {"approve": False, "reason": (await self.next("why not? ")).strip()}
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidInput("Type y for yes, or n for no") from None

    async def _read(self) -> bytes:
        import asyncio  # tables do without

        loop, is_ready = asyncio.get_running_loop(), asyncio.Event()
        descriptor = sys.stdin.fileno()
        try:
            loop.add_reader(descriptor, is_ready.set)
        except PermissionError:  # of a file, which never lets anybody wait
            return os.read(descriptor, _CHUNK_BYTES)
        try:
            await is_ready.wait()
        finally:
            loop.remove_reader(descriptor)
        return os.read(descriptor, _CHUNK_BYTES)
