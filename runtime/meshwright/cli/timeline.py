"""The timeline of a task: its events drawn on stderr, with those of the tasks it waits for in their place."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from meshwright.cli.event_lines import Line, line_of
from meshwright.cli.output import Document, document, for_terminal, printable
from meshwright.client import ENDINGS, Client

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from meshwright.cli.connect import Connection
    from meshwright.messages import Event

MAX_LAG_SECONDS = 2.0  # a child's last events may reach us after its parent's next
_DELTA = "model.delta"
INDENT = "  "
_WORD_WIDTH = 11
_SPINNER_WIDTH = 4  # of the spinner and what is around it
_STYLES = {
    "accepted": "bold cyan",
    "dispatched": "cyan",
    "started": "cyan",
    "resumed": "cyan",
    "waiting": "cyan",
    "memory": "blue",
    "context": "blue",
    "model": "magenta",
    "tool": "yellow",
    "attempt": "bold yellow",
    "cancelling": "bold yellow",
    "succeeded": "bold green",
    "failed": "bold red",
    "cancelled": "bold yellow",
    "timed out": "bold red",
}


class Step(NamedTuple):
    """One event of a timeline; `depth` counts the tasks above its own."""

    depth: int
    event: Document


async def timeline(client: Client, task_id: str, depth: int = 0) -> AsyncGenerator[Step]:
    """Follow a task to its outcome, which is the last step, and each task that it waits for on the way."""
    async with aclosing(client.follow(task_id)) as events:
        following = asyncio.ensure_future(anext(events, None))
        try:
            while (event := await following) is not None:
                step = Step(depth, document(event))
                yield step
                if event.event_type in ENDINGS:
                    return
                following = asyncio.ensure_future(anext(events, None))
                if child := _awaited_task(step.event):
                    async for below in _beside(following, client, child, depth + 1):
                        yield below
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _awaited_task(event: Document) -> str | None:
    if event["event_type"] != "task.waiting" or not isinstance(event["payload"], dict):
        return None
    return event["payload"].get("child_task_id")


async def _beside(
    parent: asyncio.Future[Event | None], client: Client, child: str, depth: int
) -> AsyncGenerator[Step]:
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
    """Where a timeline is drawn; this one draws nothing."""

    def line(self, depth: int, line: Line) -> None:
        """Draw one line, further in for each task above it."""

    def words(self, text: str, *, restart: bool) -> None:
        """Show what a model writes, until the next line; `restart` forgets what it wrote before."""


class _PlainDrawing(Drawing):
    """Lines of text; what a model writes is not shown before it is whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, depth: int, line: Line) -> None:
        """Write the line, at once."""
        click.echo(f"{INDENT * (depth + 1)}{line.word:<{_WORD_WIDTH}} {line.text}", file=self._stream)


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
        grid.add_column(width=len(INDENT) * (depth + 1) + _WORD_WIDTH, no_wrap=True)
        grid.add_column()
        style = _STYLES.get(line.word, "dim")
        grid.add_row(Text(INDENT * (depth + 1) + line.word, style=style), Text(line.text))
        self._console.print(grid)
        self.words("", restart=True)

    def words(self, text: str, *, restart: bool) -> None:
        """Show the end of what the model has written, as much as fits beside the spinner."""
        from rich.text import Text

        room = max(1, self._console.width - _SPINNER_WIDTH)
        self._words = ("" if restart else self._words) + printable(text)
        self._words = self._words[-room:]
        self._spinner.update(Text(self._words, no_wrap=True))


@contextmanager
def drawing(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Drawing]:
    """The drawing that suits stderr, or another stream."""
    stream = stream or sys.stderr
    if quiet:
        yield Drawing()
    elif not stream.isatty():
        yield _PlainDrawing(stream)
    else:
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
            outcome = await draw(mesh.client, task_id, canvas)
            canvas.line(0, Line("events", f"mesh events --task {task_id}{mesh.options}"))
            return outcome
    except asyncio.CancelledError:
        if mesh.is_running:
            click.echo(f"the task goes on; to end it: mesh cancel {task_id}{mesh.options}", err=True)
        else:
            await mesh.client.cancel(task_id)
            click.echo(f"the task is cancelled; mesh task {task_id}{mesh.options} shows it", err=True)
        raise


async def draw(client: Client, task_id: str, canvas: Drawing) -> Document:
    """Draw the timeline of a task, and return its outcome."""
    payload = Document()
    async with aclosing(timeline(client, task_id)) as steps:
        async for depth, event in steps:
            payload = event["payload"]
            if event["event_type"] == _DELTA:
                canvas.words(payload.get("text", ""), restart=payload.get("n", 1) == 1)
            elif line := line_of(event):
                canvas.line(depth, line)
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
        error = outcome.get("error") or {}
        why = f": {' '.join(str(error.get('message', '')).split())}" if error else ""
        click.echo(f"mesh: the task {outcome['status'].replace('_', ' ')}{why}", err=True)
    return 0 if outcome["success"] else 1
