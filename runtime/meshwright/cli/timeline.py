"""The timeline of a task: its events drawn on stderr, with those of the tasks it waits for in their place."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, TextIO

import click

from meshwright.cli.answering import Answering
from meshwright.cli.events import Line, line_of
from meshwright.cli.files import file_line
from meshwright.cli.output import Document, document, for_terminal, printable
from meshwright.client import ENDINGS, Client
from meshwright.core.errors import error_codes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from meshwright.cli.connect import Connection
    from meshwright.core.messages import Event

MAX_LAG_SECONDS = 2.0  # a child's last events may reach us after its parent's next
_DELTA = "model.delta"
_ENDED = {"cancelled": "was cancelled", "timed_out": "timed out"}
_OWN_TYPES = frozenset({"BrokeOff", "Cancelled", "DeadlineExceeded", "TaskTimeout", "Timeout"})
"""The types of faults that no exception led to."""
_INDENT = "  "
_WORD_WIDTH = 11
_SPINNER_WIDTH = 4  # of the spinner and what is around it
_COLOURS = {
    "cyan": "dispatched started resumed waiting",
    "blue": "memory context",
    "magenta": "model",
    "yellow": "tool",
    "bold cyan": "accepted",
    "bold green": "succeeded",
    "bold yellow": "attempt cancelling cancelled",
    "bold red": "failed",
}
_STYLES = {word: style for style, words in _COLOURS.items() for word in words.split()} | {
    "timed out": "bold red"
}


async def timeline(client: Client, task_id: str, depth: int = 0) -> AsyncGenerator[tuple[int, Document]]:
    """Follow a task to its outcome, which comes last, and each task that it waits for on the way.

    Yields each event with the number of tasks above its own.
    """
    async with aclosing(client.follow(task_id)) as events:
        following = asyncio.ensure_future(anext(events, None))
        try:
            while (event := await following) is not None:
                shown = document(event)
                yield depth, shown
                if event.event_type in ENDINGS:
                    return
                following = asyncio.ensure_future(anext(events, None))
                if child := _awaited_task(shown):
                    async for below in _beside(following, client, child, depth + 1):
                        yield below
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _awaited_task(event: Document) -> str | None:
    if event["event_type"] != "task.waiting" or not isinstance(event["payload"], dict):
        return None
    child = event["payload"].get("child_task_id")
    return child if isinstance(child, str) else None


async def _beside(
    parent: asyncio.Future[Event | None], client: Client, child: str, depth: int
) -> AsyncGenerator[tuple[int, Document]]:
    """The timeline of a child, until it ends, or its parent goes on and nothing more comes soon."""
    async with aclosing(timeline(client, child, depth)) as steps:
        while True:
            following = asyncio.ensure_future(anext(steps, None))
            try:
                await asyncio.wait([following, parent], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([following], timeout=MAX_LAG_SECONDS)
                step = following.result() if following.done() else None
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            if step is None:
                return
            yield step


class Drawing:
    """Where a timeline is drawn: as lines of text on a stream, or nowhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def line(self, depth: int, line: Line) -> None:
        """Draw one line, further in for each task above it."""
        if self._stream is not None:
            click.echo(f"{_INDENT * (depth + 1)}{line.word:<{_WORD_WIDTH}} {line.text}", file=self._stream)

    def words(self, text: str, *, restart: bool) -> None:
        """Show what a model writes, until the next line; `restart` forgets what it wrote before."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else."""
        yield


class TerminalDrawing(Drawing):
    """Coloured lines, wrapped within their column, above a spinner with the words of the model."""

    def __init__(self, console: Console, spinner: Status) -> None:
        self._console = console
        self._spinner = spinner
        self._words = ""

    def line(self, depth: int, line: Line) -> None:
        """Print the line above the spinner."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=len(_INDENT) * (depth + 1) + _WORD_WIDTH, no_wrap=True)
        grid.add_column()
        style = _STYLES.get(line.word, "dim")
        grid.add_row(Text(_INDENT * (depth + 1) + line.word, style=style), Text(line.text))
        self._console.print(grid)
        self.words("", restart=True)

    def words(self, text: str, *, restart: bool) -> None:
        """Show the end of what the model has written, as much as fits beside the spinner."""
        from rich.text import Text

        room = max(1, self._console.width - _SPINNER_WIDTH)
        self._words = (("" if restart else self._words) + printable(text))[-room:]
        self._spinner.update(Text(self._words, no_wrap=True))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else: no spinner."""
        self._spinner.stop()
        try:
            yield
        finally:
            self._spinner.start()


@contextmanager
def drawing(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Drawing]:
    """The drawing that suits stderr, or another stream."""
    stream = stream or sys.stderr
    if quiet or not stream.isatty():
        yield Drawing(None if quiet else stream)
        return
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    with console.status("", spinner="dots") as spinner:
        yield TerminalDrawing(console, spinner)


async def watch(mesh: Connection, task_id: str, *, quiet: bool) -> Document:
    """Draw the timeline of a task to its end, and return its outcome.

    Interrupted, it cancels the task if the mesh ends with this command; otherwise the task goes on.
    """
    if mesh.about and not quiet:
        click.echo(mesh.about, err=True)
    try:
        with drawing(quiet=quiet) as canvas:
            answering = Answering(mesh, canvas)
            try:
                outcome = await draw(mesh.client, task_id, canvas, answering)
            finally:
                await answering.close()
            for file in (files := outcome.get("files") or ()):
                canvas.line(0, Line("file", file_line(file)))
            if files:
                canvas.line(0, Line("save", f"mesh task {task_id} --save DIR{mesh.options}"))
            canvas.line(0, Line("events", f"mesh events --task {task_id}{mesh.options}"))
            return outcome
    except asyncio.CancelledError:
        if mesh.is_running:
            click.echo(f"the task goes on; to end it: mesh cancel {task_id}{mesh.options}", err=True)
        else:
            await mesh.client.cancel(task_id)
            click.echo(f"the task is cancelled; mesh task {task_id}{mesh.options} shows it", err=True)
        raise


async def draw(client: Client, task_id: str, canvas: Drawing, answering: Answering | None = None) -> Document:
    """Draw the timeline of a task, have its questions answered, and return its outcome."""
    payload = Document()
    async with aclosing(timeline(client, task_id)) as steps:
        async for depth, event in steps:
            payload = event["payload"]
            if event["event_type"] == _DELTA and isinstance(payload, dict):
                canvas.words(payload.get("text", ""), restart=payload.get("n", 1) == 1)
            elif line := line_of(event):
                canvas.line(depth, line)
            if answering is not None:
                answering.take(event)
    return payload


def print_answer(outcome: Document, *, as_json: bool) -> int:
    """Print the answer, or the outcome as JSON; returns the exit status that says how it went."""
    result = outcome.get("result") or {}
    is_text = not result or "text" in result
    text = str(result.get("text") or "") if is_text else json.dumps(result, ensure_ascii=False, indent=2)
    if as_json:
        click.echo(json.dumps(outcome, ensure_ascii=False))
    elif text:
        click.echo(for_terminal(text) if sys.stdout.isatty() else text)
    if not outcome["success"] and not as_json:
        error = outcome.get("error")
        why = f": {' '.join(_why(error).split())}" if error else ""
        status = outcome["status"]
        click.echo(f"mesh: the task {_ENDED.get(status, status)}{why}", err=True)
    return 0 if outcome["success"] else 1


def _why(error: Document) -> str:
    """What went wrong, with the type of an exception that is none of ours: `KeyError: 'k'`."""
    import meshwright.models.errors  # noqa: F401 - so that their codes are known

    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    is_ours = kind in _OWN_TYPES or kind in error_codes()
    return message if is_ours or message.startswith(kind) else f"{kind}: {message}".removesuffix(": ")
