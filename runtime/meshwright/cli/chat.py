"""`mesh chat`: a conversation with an agent in one thread."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from meshwright.cli.tasks import with_names
from meshwright.console.connect import Connection, talk
from meshwright.console.nouns import completes
from meshwright.console.options import AMOUNT, FILE, JSON_OBJECT, Target, mesh_options
from meshwright.console.output import Line, TypedLines, for_terminal, styled
from meshwright.console.project import trust_option
from meshwright.console.timeline import (
    ERASE,
    Answering,
    Drawing,
    NoAnswerError,
    TerminalDrawing,
    follow_task,
    is_drawn_on,
    print_answer,
)
from meshwright.core.display import Document
from meshwright.core.errors import MeshError, NotFound
from meshwright.core.ids import new_id

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?")
_ENDS = ("quit", "exit")
_HELP = "/file PATH sends a file with the next request, /new begins another thread, /quit ends"
_LATE_SECONDS = 3.0
_SHOWN = frozenset(("tool", "waiting", "cancelling", "file", "save"))
"""The lines of a timeline that a conversation shows; `mesh events` has all."""


class _Plain(Drawing):
    """Lines of text; the answer comes whole."""

    text = ""

    def line(self, depth: int, line: Line) -> None:
        """Draw the line, if a conversation shows such."""
        if line.word in _SHOWN:
            super().line(depth, line)


class _Live(TerminalDrawing):
    """Lines above a spinner, in whose place the answer grows as the model writes it."""

    text = ""
    """The words of the last reply of the agent's model."""
    _is_open = False  # they stand on the last line

    def line(self, depth: int, line: Line) -> None:
        """Draw the line below what the model has written, if a conversation shows such."""
        self.end_words()
        if line.word in _SHOWN:
            super().line(depth, line)

    def words(self, text: str, *, restart: bool, depth: int = 0) -> None:
        """Write them behind those before; of an agent that this one asked, show them beside the spinner."""
        if depth:
            super().words(text, restart=restart)
            return
        if restart:
            self.end_words()
            self.text = ""
        with self._lock:
            self._print(for_terminal(text) if self._is_open else f"{ERASE}{for_terminal(text)}")
            self.text, self._is_open = self.text + text, bool(text) or self._is_open

    def end_words(self) -> None:
        """Go to the next line, if the model's words are on this one."""
        with self._lock:
            self._print("\n" if self._is_open else "")
            self._is_open = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else, below the words."""
        self.end_words()
        with super().paused():
            yield

    def _spins(self) -> bool:
        return not self._is_open and super()._spins()


@contextmanager
def _canvas() -> Iterator[_Plain | _Live]:
    if not (sys.stdout.isatty() and is_drawn_on(sys.stderr)):
        yield _Plain(sys.stderr)
        return
    with _Live(sys.stderr).spinning() as canvas:
        try:
            yield canvas
        finally:
            canvas.end_words()


class _ChatSession:
    """Takes lines, each a request or a command, until they end."""

    def __init__(
        self, mesh: Connection, agent_id: str, payload: Document, thread_id: str, budget_usd: str | None
    ) -> None:
        self._mesh = mesh
        self._agent_id, self._payload, self._budget_usd = agent_id, payload, budget_usd
        self._thread_id = thread_id
        self._lines = TypedLines()
        self._files: list[Document] = []
        self._turn: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[str] | None = None

    async def run(self) -> None:
        """Converse. Raises Abort where Ctrl-C ends it, which it does without a terminal."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        self._note(f"{self._agent_id}, thread {self._thread_id}; {_HELP}")
        try:
            while (text := await self._next()) is not None:
                try:
                    if await self._has_ended_by(text):
                        break
                except NoAnswerError as error:
                    self._note(error.message)
                except (MeshError, click.UsageError) as error:
                    click.echo(f"mesh: {for_terminal(str(error))}", err=True)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        self._note(f"to go on: mesh chat {self._agent_id} --thread {self._thread_id}{self._mesh.options}")

    async def _next(self) -> str | None:
        """The next line that is not empty, or None where there are no more."""
        while True:
            self._reading = asyncio.create_task(self._lines.next("> " if self._lines.is_terminal else ""))
            try:
                if text := (await self._reading).strip():
                    return text
            except EOFError:
                if self._lines.is_terminal:
                    click.echo(err=True)  # behind the prompt
                return None
            except asyncio.CancelledError:
                raise click.Abort from None
            finally:
                self._reading = None

    async def _has_ended_by(self, text: str) -> bool:
        """Do what a line says; whether it ends the conversation."""
        command = _COMMAND.fullmatch(f"/{text}" if self._lines.is_terminal and text in _ENDS else text)
        if command is None:
            turn = self._turn = asyncio.create_task(self._ask(text))
            await asyncio.wait([turn])
            self._turn = None
            if not turn.cancelled():  # by a second Ctrl-C
                turn.result()
            return False
        match command.groups():
            case (name, None) if name in _ENDS:
                return True
            case ("new", None):
                self._thread_id = new_id()
                self._note(f"thread {self._thread_id}")
            case ("file", str() as path):  # as a shell takes it
                self._files.append(FILE.convert(path.strip("\"' "), None, None))
                self._note(f"{path} goes with the next request")
            case _:
                self._note(_HELP)
        return False

    async def _ask(self, text: str) -> None:
        """Give the agent a request, show its answer; cancelled, end the task with this."""
        client, task_id = self._mesh.client, new_id()
        payload = {**self._payload, "files": self._files} if self._files else self._payload
        is_late = f"{self._mesh.where} does not answer yet; Ctrl-C gives up"
        late = asyncio.get_running_loop().call_later(_LATE_SECONDS, self._note, is_late)
        try:
            await client.submit(
                self._agent_id,
                text,
                payload=payload,
                thread_id=self._thread_id,
                budget_usd=self._budget_usd,
                task_id=task_id,
            )
            late.cancel()
            self._files = []
            with _canvas() as canvas:
                answering = Answering(self._mesh, canvas, self._lines)
                outcome = await follow_task(self._mesh, task_id, canvas, answering)
        except asyncio.CancelledError:
            with suppress(NotFound):  # it was not even sent
                try:
                    await asyncio.wait_for(client.cancel(task_id), _LATE_SECONDS)
                except TimeoutError:
                    self._note(f"{self._mesh.where} does not answer; it may have the task {task_id}")
                    return
            self._note("the task is cancelled")
            return
        finally:
            late.cancel()
        if print_answer(outcome, printed_text=canvas.text):
            self._note(f"again: mesh retry {task_id}{self._mesh.options}")

    def _interrupt(self) -> None:
        """Stop the answer that is under way; at the prompt of a terminal only say how it ends."""
        if self._turn is not None:
            self._turn.cancel()
        elif self._lines.is_terminal:
            click.echo("\n/quit or Ctrl-D ends\n> ", nl=False, err=True)
        elif self._reading is not None:
            self._reading.cancel()

    def _note(self, text: str) -> None:
        click.echo(styled(text, dim=True) if self._lines.is_terminal else text, err=True)


@click.command()
@click.argument("agent", shell_complete=completes("agent"))
@click.option(
    "--payload", type=JSON_OBJECT, default="{}", help="More of each request; what you say is its `text`."
)
@click.option(
    "--thread", "thread_id", metavar="ID", help="Go on with this conversation: the agent sees its history."
)
@click.option("--budget", "budget_usd", type=AMOUNT, help="Dollars that each request may cost.")
@mesh_options
@trust_option
def chat(
    target: Target, agent: str, payload: Document, thread_id: str | None, budget_usd: str | None
) -> None:
    """Talk with an agent: answers, approvals and files in one thread.

    Each line is a request. Answers grow as the model writes them, tools are a line each, and what the
    agent asks a person is asked in its place. /file PATH sends a file with the next request, /new begins
    another thread, /quit or Ctrl-D ends; Ctrl-C cancels the answer that is under way.

    Of a stdin that is no terminal each line is a request, or the answer to a question. Uses a running mesh
    if there is one; otherwise the command runs a mesh of its own.
    """

    async def converse(mesh: Connection) -> None:
        if agent not in [info.agent_id for info in await mesh.client.agents() if info.kind == "agent"]:
            raise await with_names(mesh, agent, NotFound(f"no agent {agent!r} is registered", field="agent"))
        if mesh.about:
            click.echo(mesh.about, err=True)
        await _ChatSession(mesh, agent, payload, thread_id or new_id(), budget_usd).run()

    talk(target, converse, need="work", begins=True)
