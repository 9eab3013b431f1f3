"""The timeline of a task: its events, with those of tasks it waits for in their place, and its answer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Self, TextIO

import click

from meshwright.client import Client
from meshwright.console.connect import Connection
from meshwright.console.output import (
    Line,
    TypedLines,
    answer_text,
    document,
    for_terminal,
    styled,
    timeline_line,
)
from meshwright.console.questions import parse_answer, question_lines
from meshwright.core.clock import unless
from meshwright.core.display import Document, file_line, printable, short
from meshwright.core.errors import Conflict, MeshError, NotFound, is_own_fault
from meshwright.core.model_events import ModelCalled, ModelDelta
from meshwright.core.money import TASK_BUDGET
from meshwright.core.schema import takes_approval
from meshwright.core.task_events import TaskWaiting, WaitEnded

if TYPE_CHECKING:
    from meshwright.core.events import Event

MAX_LAG_SECONDS = 2.0  # a child's last events may reach us after its parent's next
_ENDED = {"cancelled": "was cancelled", "timed_out": "timed out"}
_INDENT = "  "
_WORD_WIDTH, _MIN_WIDTH = 11, 20
_MAX_QUESTIONS = 1_000  # among which that about a budget is looked for
_SPINNER_WIDTH = 4  # of the spinner and what is around it
_COLOURS = {
    "cyan": "accepted dispatched started resumed waiting",
    "blue": "memory context",
    "magenta": "model",
    "yellow": "tool attempt cancelling cancelled",
    "green": "succeeded",
    "red": "failed timed_out",
}
_BOLD = frozenset(("accepted", "attempt", "cancelling", "cancelled", "succeeded", "failed", "timed out"))
_STYLES: dict[str, dict[str, Any]] = {
    word.replace("_", " "): {"fg": colour, "bold": word.replace("_", " ") in _BOLD or None}
    for colour, words in _COLOURS.items()
    for word in words.split()
}
_DOING = {
    "task.accepted": "choosing an agent",
    "task.dispatched": "waiting for a slot",
    "task.waiting": "waiting",
    "context.compressed": "calling the model",
    "tool.called": "calling the model",
    "wait.ended": "going on",
}
"""The words of the spinner after an event; after all others it says that the agent works."""
_WORKING = "working"
_FRAMES, _FRAME_SECONDS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", 0.1
ERASE, _NO_WRAP, _WRAP = "\r\x1b[K", "\x1b[?7l", "\x1b[?7h"


async def timeline(client: Client, task_id: str, depth: int = 0) -> AsyncGenerator[tuple[int, Document]]:
    """Follow a task to its outcome, which comes last, and each task that it waits for on the way.

    Yields each event with the number of tasks above its own.
    """
    async with aclosing(client.follow(task_id)) as events:
        following = asyncio.ensure_future(anext(events, None))
        try:
            while (event := await following) is not None:
                view = document(event)
                yield depth, view
                following = asyncio.ensure_future(anext(events, None))
                if child := _awaited_task(view):
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
    """Draws a timeline as lines of text on a stream, or nowhere."""

    _held: list[str] | None = None  # lines that wait while somebody else has the terminal

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def line(self, depth: int, line: Line) -> None:
        """Draw one line, further in for each task above it; while it is paused, after the pause."""
        if self._stream is not None:
            self._print(f"{_INDENT * (depth + 1)}{line.word:<{_WORD_WIDTH}} {line.text}\n")

    def doing(self, words: str) -> None:
        """Say what happens now, until the next line."""

    def words(self, text: str, *, restart: bool, depth: int = 0) -> None:
        """Show what a model writes, until the next line; `restart` forgets what it wrote before."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else; lines that come meanwhile are drawn afterwards."""
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            self._print("".join(lines))

    def _print(self, text: str) -> None:
        if self._held is not None:
            self._held.append(text)
        elif text:
            click.echo(text, file=self._stream, nl=False)


class TerminalDrawing(Drawing):
    """Coloured lines, wrapped within their column, above a spinner with the words of the model."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._terminal = stream
        self._words, self._doing, self._since = "", _WORKING, time.monotonic()
        self._is_paused = os.environ.get("TTY_INTERACTIVE") == "0"
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="mesh-spinner", daemon=True)

    def line(self, depth: int, line: Line) -> None:
        """Print the line above the spinner."""
        indent = _INDENT * (depth + 1)
        room = max(shutil.get_terminal_size().columns - len(indent) - _WORD_WIDTH - 1, _MIN_WIDTH)
        first, *more = textwrap.wrap(line.text, room, break_on_hyphens=False) or [""]
        word = styled(f"{indent}{line.word:<{_WORD_WIDTH}}", **_STYLES.get(line.word, {"dim": True}))
        below = f"\n{' ' * (len(indent) + _WORD_WIDTH + 1)}"
        with self._lock:
            self._words, self._since = "", time.monotonic()
            self._print(f"{ERASE}{below.join([f'{word} {first}', *more])}\n")

    def doing(self, words: str) -> None:
        """Show these words and the seconds since then beside the spinner."""
        with self._lock:
            self._since = self._since if words == self._doing else time.monotonic()
            self._doing = words

    def words(self, text: str, *, restart: bool, depth: int = 0) -> None:
        """Show the end of what the model has written, as much as fits beside the spinner."""
        room = max(1, shutil.get_terminal_size().columns - _SPINNER_WIDTH)
        with self._lock:
            self._words = (("" if restart else self._words) + printable(text))[-room:]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else: no spinner."""
        before, self._is_paused = self._is_paused, True
        with self._lock:
            self._write(ERASE)
        try:
            with super().paused():
                yield
        finally:
            self._is_paused = before

    @contextmanager
    def spinning(self) -> Iterator[Self]:
        """Show the spinner within a block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join()
            self._write(ERASE)

    def _spin(self) -> None:
        for frame in cycle(_FRAMES if "utf" in (self._terminal.encoding or "").lower() else "|/-\\"):
            if self._stopping.wait(_FRAME_SECONDS):
                return
            with self._lock:
                if self._spins():
                    words = self._words or f"{self._doing} {time.monotonic() - self._since:.0f} s"
                    self._write(f"{ERASE}{_NO_WRAP}{frame} {words}{_WRAP}\r")

    def _spins(self) -> bool:
        return not self._is_paused

    def _write(self, text: str) -> None:
        click.echo(text, file=self._terminal, nl=False)


def is_drawn_on(stream: TextIO) -> bool:
    """Whether lines can be erased on a stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def drawing(*, quiet: bool = False, stream: TextIO | None = None) -> Iterator[Drawing]:
    """The drawing that suits stderr, or another stream."""
    stream = stream or sys.stderr
    if quiet or not is_drawn_on(stream):
        yield Drawing(None if quiet else stream)
        return
    with TerminalDrawing(stream).spinning() as canvas:
        yield canvas


class NoAnswerError(click.ClickException):
    """A question waits, and cannot be answered here."""


class Answering:
    """Asks the person at the terminal, one question at a time; another may answer first elsewhere.

    Answers come from `lines`, by default from a terminal alone. Without one, and at its end, `ended` is set,
    and `question` is the one that waits. With `stays` it waits for the answer of another where there is no
    terminal, if the mesh goes on without this command.
    """

    def __init__(
        self, mesh: Connection, canvas: Drawing, lines: TypedLines | None = None, *, stays: bool = False
    ) -> None:
        self.ended = asyncio.Event()
        self.question: Document | None = None
        self._mesh = mesh
        self._canvas = canvas
        self._lines = lines or TypedLines()
        self._is_interactive = lines is not None or self._lines.is_terminal
        self._stays = stays and mesh.is_running and not self._is_interactive
        self._open: dict[str, Document] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked = ""

    def asks(self, event: Document) -> bool:
        """Whether an event is a question that is put to the person here, whole."""
        is_waiting = event["event_type"] == TaskWaiting.event_type
        waiting = TaskWaiting.from_payload(event["payload"]) if is_waiting else None
        return self._is_interactive and waiting is not None and _is_question(waiting)

    def take(self, event: Document) -> None:
        """Take an event of the timeline: a question, or the end of one."""
        event_type, payload = event["event_type"], event["payload"]
        if event_type == TaskWaiting.event_type:
            if _is_question(waiting := TaskWaiting.from_payload(payload)):
                self._open.setdefault(waiting.key, event)
        elif event_type == WaitEnded.event_type:
            if (ended := WaitEnded.from_payload(payload)).kind == "person":
                self._forget(ended.key)
        elif event_type == ModelCalled.event_type:  # a wait for money ends each time it looks again
            keys = [key for key, asked in self._open.items() if asked["task_id"] == event["task_id"]]
            for key in keys:
                if TaskWaiting.from_payload(self._open[key]["payload"]).kind == "money":
                    self._forget(key)
        self._ask_next()

    def _forget(self, key: str) -> None:
        self._open.pop(key, None)
        if self._asking is not None and self._asked == key:
            self._asking.cancel()

    async def close(self) -> None:
        """Ask no more."""
        self._open.clear()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask_next(self, last: asyncio.Task[None] | None = None) -> None:
        if last is not None and not last.cancelled():
            self._open.pop(self._asked, None)
            if isinstance(last.exception(), EOFError):
                self._open.clear()
                self.ended.set()
        if last is not None:
            self._asking = None
        if self._open and self._asking is None and not self._stays:
            self._asked, event = next(iter(self._open.items()))
            asking = self._ask if self._is_interactive else self._leave
            self._asking = asyncio.create_task(asking(self._asked, event))
            self._asking.add_done_callback(self._ask_next)

    async def _leave(self, key: str, event: Document) -> None:
        """Raises EOFError if the question is open: the events are also of those that were answered before."""
        account = TaskWaiting.from_payload(event["payload"]).subject.get("account")
        if account is None:
            questions = await self._mesh.client.inbox(id=event["task_id"])
            self.question = next((document(one) for one in questions if one.wait_id == key), None)
        else:  # one question is for all tasks that wait for it
            questions = await self._mesh.client.inbox(limit=_MAX_QUESTIONS)
            of_account = (document(one) for one in questions if one.subject.get("account") == account)
            self.question = next(of_account, None)
        if self.question is not None:
            raise EOFError

    async def _ask(self, key: str, event: Document) -> None:
        waiting = TaskWaiting.from_payload(event["payload"])
        question = {**event["payload"], "question": waiting.asked, "status": "asked"}
        schema = waiting.answer_schema
        with self._canvas.paused():
            for label, text in question_lines(question, ""):
                click.echo(f"{label:<11} {printable(text)}", err=True)
            prompt = "approve? [y/n] " if takes_approval(schema) else "answer: "
            prompt = "add how many dollars? [n: none] " if waiting.kind == "money" else prompt
            while True:
                try:
                    if not (text := (await self._lines.next(prompt)).strip()):
                        continue
                    if waiting.kind == "money":
                        await self._answer_money(waiting, text, event)
                        return
                    is_decision = takes_approval(schema)
                    value = await self._lines.decision(text) if is_decision else parse_answer(schema, text)
                    await self._mesh.client.answer(event["task_id"], value, key=key)
                except EOFError:
                    click.echo(err=True)  # behind the prompt
                    return await self._leave(key, event)
                except MeshError as error:
                    click.echo(for_terminal(str(error)), err=True)
                    if isinstance(error, (Conflict, NotFound)):
                        return
                else:
                    return

    async def _answer_money(self, waiting: TaskWaiting, text: str, event: Document) -> None:
        """Raise the budget by the dollars of a text, or deny it more. Raises InvalidInput."""
        client, subject = self._mesh.client, waiting.subject
        if text.casefold() in ("n", "no"):
            value = {"approve": False, "reason": (await self._lines.next("why not? ")).strip()}
            await client.answer(event["task_id"], value, key=waiting.key)
            return
        amount = text.removeprefix("$")
        if subject.get("budget") == TASK_BUDGET:
            await client.raise_budget(amount, task_id=subject.get("of") or event["task_id"])
        else:
            await client.raise_budget(amount, budget=subject.get("budget"), key=subject.get("of") or None)


def _is_question(waiting: TaskWaiting) -> bool:
    """Whether a person is to answer: a question, or money for which the budget has people asked."""
    asks_for_money = "ask" in (waiting.subject.get("on_empty"), waiting.on_empty)
    return waiting.kind == "person" or (waiting.kind == "money" and asks_for_money)


async def watch(mesh: Connection, task_id: str, *, quiet: bool, stays: bool = False) -> Document:
    """Draw the timeline of a task to its end, and return its outcome.

    Raises NoAnswerError where a question waits for a person and there is no terminal, unless it `stays`.
    Interrupted, it cancels the task if the mesh ends with this command; otherwise the task goes on.
    """
    if mesh.about and not quiet:
        click.echo(mesh.about, err=True)
    try:
        with drawing(quiet=quiet) as canvas:
            outcome = await follow_task(mesh, task_id, canvas, Answering(mesh, canvas, stays=stays))
            canvas.line(0, Line("events", f"mesh events --task {task_id}{mesh.options}"))
            if not outcome["success"]:
                canvas.line(0, Line("again", f"mesh retry {task_id}{mesh.options}"))
            return outcome
    except asyncio.CancelledError:
        if mesh.is_running:
            click.echo(f"the task goes on; to end it: mesh cancel {task_id}{mesh.options}", err=True)
        else:
            await mesh.client.cancel(task_id)
            click.echo(f"the task is cancelled; mesh task {task_id}{mesh.options} shows it", err=True)
        raise


async def follow_task(mesh: Connection, task_id: str, canvas: Drawing, answering: Answering) -> Document:
    """Draw the timeline of a task with the files of its outcome, which it returns.

    Raises NoAnswerError, below the commands that answer it, if a question waits and no answer can come here.
    """
    try:
        outcome = await unless(answering.ended, draw(mesh.client, task_id, canvas, answering))
    finally:
        await answering.close()
    if outcome is None:
        assert answering.question is not None
        with canvas.paused():
            for label, text in question_lines(answering.question, mesh.options):
                click.echo(f"{label:<11} {printable(text)}", err=True)
        later = "" if mesh.is_running else f", with the next mesh up{mesh.options}"
        raise NoAnswerError(f"task {task_id} waits for a person; it goes on once that is answered{later}")
    for file in (files := outcome.get("files") or ()):
        canvas.line(0, Line("file", file_line(file)))
    if files:
        canvas.line(0, Line("save", f"mesh task {task_id} --save DIR{mesh.options}"))
    return outcome


async def draw(client: Client, task_id: str, canvas: Drawing, answering: Answering | None = None) -> Document:
    """Draw the timeline of a task, have its questions answered, and return its outcome."""
    payload = Document()
    async with aclosing(timeline(client, task_id)) as steps:
        async for depth, event in steps:
            payload = event["payload"]
            if event["event_type"] == ModelDelta.event_type:
                piece = ModelDelta.from_payload(payload)
                canvas.words(piece.text, restart=piece.n in (0, 1), depth=depth)
            else:
                is_asked = answering is not None and answering.asks(event)
                if not is_asked and (line := timeline_line(event)):
                    canvas.line(depth, line)
                canvas.doing(_doing(event))
            if answering is not None:
                answering.take(event)
    return payload


def _doing(event: Document) -> str:
    payload = event["payload"]
    if event["event_type"] == ModelCalled.event_type:
        if tools := ModelCalled.from_payload(payload).tool_calls:
            return f"running {', '.join(map(short, tools))}"
    elif event["event_type"] == TaskWaiting.event_type and (kind := TaskWaiting.from_payload(payload).kind):
        return f"waiting for {'a person' if kind == 'person' else kind}"
    return _DOING.get(event["event_type"], _WORKING)


def print_answer(
    outcome: Document, *, as_json: bool = False, raw: bool = False, printed_text: str = ""
) -> int:
    """Print the answer, or the outcome as JSON; returns the exit status that says how it went.

    An answer that is `printed_text` already is left out; one in Markdown is drawn, unless `raw`.
    """
    result = outcome.get("result") or {}
    is_text = not result or "text" in result
    text = str(result.get("text") or "") if is_text else json.dumps(result, ensure_ascii=False, indent=2)
    if as_json:
        click.echo(json.dumps(outcome, ensure_ascii=False))
    elif text and text.strip() != printed_text.strip():
        click.echo(answer_text(text, raw=raw or not is_text))
    if not outcome["success"] and not as_json:
        error = outcome.get("error")
        why = f": {' '.join(_why(error).split())}" if error else ""
        status = outcome["status"]
        click.echo(f"mesh: the task {_ENDED.get(status, status)}{why}", err=True)
    return 0 if outcome["success"] else 1


def _why(error: Document) -> str:
    """The message of an error, with the type of an exception that is none of ours: `KeyError: 'k'`."""
    import meshwright.models.errors  # noqa: F401 - so that their codes are known

    kind, message = str(error.get("type", "")), str(error.get("message", ""))
    return (
        message if is_own_fault(kind) or message.startswith(kind) else f"{kind}: {message}".removesuffix(": ")
    )
