"""Drawing the road of a task on stderr: with colours and a pulse in a terminal, else as plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from meshwright.cli.lines import Line
from meshwright.cli.theme import style_of

if TYPE_CHECKING:
    from rich.console import Console

INDENT = "  "
WORD_WIDTH = 11


class Drawing(Protocol):
    """Where lines are drawn as they come."""

    def line(self, depth: int, line: Line) -> None:
        """Draw one line, further in for each task above it."""
        ...


class NoDrawing:
    """Draws nothing."""

    def line(self, depth: int, line: Line) -> None:
        """Do nothing."""


class PlainDrawing:
    """One line of text for each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, depth: int, line: Line) -> None:
        """Write the line, at once."""
        click.echo(f"{INDENT * (depth + 1)}{line.word:<{WORD_WIDTH}} {line.text}", file=self._stream)


class TerminalDrawing:
    """Coloured lines; what does not fit goes on below its own column."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, depth: int, line: Line) -> None:
        """Print the line above the pulse."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=len(INDENT) * (depth + 1) + WORD_WIDTH, no_wrap=True)
        grid.add_column()
        grid.add_row(Text(INDENT * (depth + 1) + line.word, style=style_of(line.word)), Text(line.text))
        self._console.print(grid)


@contextmanager
def drawing(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Drawing]:
    """The drawing that suits stderr, or another stream."""
    stream = stream or sys.stderr
    if quiet:
        yield NoDrawing()
    elif not stream.isatty():
        yield PlainDrawing(stream)
    else:
        from rich.console import Console

        console = Console(file=stream, highlight=False)
        with console.status("", spinner="dots"):
            yield TerminalDrawing(console)
