"""What a task that a command follows asks a person, answered at the terminal of that command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from meshwright.cli.inbox import answer_of, question_lines
from meshwright.cli.output import Document, for_terminal, printable
from meshwright.core.errors import Conflict, MeshError, NotFound
from meshwright.core.schema import takes_approval

if TYPE_CHECKING:
    from meshwright.cli.connect import Connection
    from meshwright.cli.timeline import Drawing

_NOBODY_CAN = (
    "No answer can come: the mesh of this command ends with it, and no other command reaches it. "
    "Ask again on one that runs (mesh up), and answer with mesh inbox"
)


class Answering:
    """Asks the person at the terminal, one question at a time; another may answer first elsewhere."""

    def __init__(self, mesh: Connection, canvas: Drawing) -> None:
        self._mesh = mesh
        self._canvas = canvas
        self._is_interactive = sys.stdin.isatty() and sys.stderr.isatty()
        self._open: dict[str, Document] = {}
        self._asking: asyncio.Task[None] | None = None
        self._asked = ""

    def take(self, event: Document) -> None:
        """Take an event of the timeline: a question, or the end of one."""
        payload = event["payload"]
        if not isinstance(payload, dict) or payload.get("kind") != "person":
            return
        key = str(payload.get("key"))
        if event["event_type"] == "task.waiting" and key not in self._open:
            self._open[key] = event
            if not self._is_interactive and not self._mesh.is_running:
                click.echo(f"mesh: warning: {_NOBODY_CAN}", err=True)
        elif event["event_type"] == "wait.ended":
            self._open.pop(key, None)
            if self._asking is not None and self._asked == key:
                self._asking.cancel()
        self._ask_next()

    async def close(self) -> None:
        """Ask no more."""
        self._open.clear()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask_next(self, ended: asyncio.Task[None] | None = None) -> None:
        if ended is not None and not ended.cancelled():
            self._open.pop(self._asked, None)
            ended.exception()
        if ended is not None:
            self._asking = None
        if self._is_interactive and self._open and self._asking is None:
            self._asked, event = next(iter(self._open.items()))
            self._asking = asyncio.create_task(self._ask(self._asked, event))
            self._asking.add_done_callback(self._ask_next)

    async def _ask(self, key: str, event: Document) -> None:
        payload = event["payload"]
        question = {**payload, "question": payload.get("asked") or "", "status": "asked"}
        schema = payload.get("answer_schema")
        with self._canvas.paused():
            for label, text in question_lines(question, ""):
                click.echo(f"{label:<11} {printable(text)}", err=True)
            while True:
                prompt = "approve? [y/n] " if takes_approval(schema) else "answer: "
                if not (text := (await _line(prompt)).strip()):
                    continue
                if takes_approval(schema):
                    value: Any = await _decision(text)
                else:
                    value = answer_of(schema, text)
                try:
                    await self._mesh.client.answer(event["task_id"], key, value)
                except MeshError as error:
                    click.echo(for_terminal(str(error)), err=True)
                    if isinstance(error, (Conflict, NotFound)):
                        return
                else:
                    return


async def _decision(text: str) -> Any:
    """What a yes or a no means; for a no, its reason is asked for. Anything else is sent as it is."""
    if text.casefold() in ("y", "yes"):
        return {"approve": True}
    if text.casefold() in ("n", "no"):
        return {"approve": False, "reason": (await _line("why not? ")).strip()}
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


async def _line(prompt: str) -> str:
    """A line from the terminal. Raises EOFError where it ends."""
    click.echo(prompt, nl=False, err=True)
    loop = asyncio.get_running_loop()
    is_ready = asyncio.Event()
    loop.add_reader(sys.stdin, is_ready.set)
    try:
        await is_ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line
