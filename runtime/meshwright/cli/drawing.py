"""Drawing the road of a task on stderr: with colours and a pulse in a terminal, else as plain lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from meshwright.cli.lines import Line, printable
from meshwright.cli.theme import style_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

INDENT = "  "
WORD_WIDTH = 11
PULSE_WIDTH = 4  # of the pulse and what is around it


class Drawing(Protocol):
    """Where lines are drawn as they come."""

    def line(self, depth: int, line: Line) -> None:
        """Draw one line, further in for each task above it."""
        ...

    def words(self, text: str, *, anew: bool) -> None:
        """Show what a model writes, until the next line; `anew` forgets what it wrote before."""
        ...


class NoDrawing:
    """Draws nothing."""

    def line(self, depth: int, line: Line) -> None:
        """Do nothing."""

    def words(self, text: str, *, anew: bool) -> None:
        """Do nothing."""


class PlainDrawing:
    """One line of text for each; what a model writes is not shown before it is whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, depth: int, line: Line) -> None:
        """Write the line, at once."""
        click.echo(f"{INDENT * (depth + 1)}{line.word:<{WORD_WIDTH}} {line.text}", file=self._stream)

    def words(self, text: str, *, anew: bool) -> None:
        """Do nothing."""


class TerminalDrawing:
    """Coloured lines; what does not fit goes on below its own column. Words run beside the pulse."""

    def __init__(self, console: Console, pulse: Status) -> None:
        self._console = console
        self._pulse = pulse
        self._words = ""

    def line(self, depth: int, line: Line) -> None:
        """Print the line above the pulse."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=len(INDENT) * (depth + 1) + WORD_WIDTH, no_wrap=True)
        grid.add_column()
        grid.add_row(Text(INDENT * (depth + 1) + line.word, style=style_of(line.word)), Text(line.text))
        self._console.print(grid)
        self.words("", anew=True)

    def words(self, text: str, *, anew: bool) -> None:
        """Show the end of what the model has written, as much as fits on the line of the pulse."""
        from rich.text import Text

        room = max(1, self._console.width - PULSE_WIDTH)
        self._words = ("" if anew else self._words) + printable(text)
        self._words = self._words[-room:]
        self._pulse.update(Text(self._words, no_wrap=True))


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
        with console.status("", spinner="dots") as pulse:
            yield TerminalDrawing(console, pulse)
