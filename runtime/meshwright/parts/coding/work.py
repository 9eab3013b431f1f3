"""The work of a session, how a conversation with a coding agent goes, and the events of what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from meshwright import Approval, Run
from meshwright.agents.trees.tree import Tree
from meshwright.core.redaction import redact
from meshwright.parts.coding.acp import PromptEnd
from meshwright.parts.coding.event_types import CodingCall
from meshwright.parts.coding.settings import CodingProgram

_MAX_TITLE_CHARS, _MAX_PATHS = 500, 20
_MAX_CALLS = 2_000  # of a session that have an event
_ENDED = ("completed", "failed")
_RESUMED = """The work goes on now; it may have been interrupted. A command that was running then was
ended with all that it had started, and may have done a part of its work. Look at what is done already,
and finish the request. What you asked a permission for may be decided by now: do it again,
if it is still needed."""
_RESTARTED = (
    "An earlier session was interrupted, and is lost. The folder has what it had done, also what a command"
    " did that was ended in the middle: look at it first."
)


class OpenedSession(NamedTuple):
    """A session as it was opened: its id, the name of the agent, and whether it is `new` or `resumed`."""

    id: str
    agent: str
    how: str


class CodingWork(NamedTuple):
    """The work that a session is for: the run, its tree, and the table of the program."""

    run: Run
    tree: Tree
    name: str
    settings: CodingProgram
    number: int
    """Of the session in its run."""
    decisions: dict[str, asyncio.Future[Approval]]
    """The answers to permissions in all sessions of the run, by the calls that they are for."""
    denied: dict[str, str]
    """The reasons of denied permissions, by the titles of their calls."""


class AgentConversation(Protocol):
    """One session by the protocol of a program. Raises CodingAgentFailed where the agent is at fault."""

    async def listen(self) -> None:
        """Take what the program says until it ends."""
        ...

    async def open(self, text: str) -> OpenedSession:
        """Begin, or go on with an earlier session where there is one and the agent can; ask for the work."""
        ...

    async def ended(self) -> PromptEnd:
        """How the agent ended the work."""
        ...


class CallReport:
    """Publishes what a coding agent does: once for each call that has ended."""

    def __init__(self, work: CodingWork) -> None:
        self._work = work
        self._calls: dict[str, dict[str, Any]] = {}
        self._publishing: set[asyncio.Task[None]] = set()

    def call(self, key: str) -> dict[str, Any]:
        """The fields of a call, as far as they are known."""
        return self._calls.get(key, {})

    def add(self, key: str, fields: Mapping[str, Any]) -> None:
        """Learn of a call: its `title`, `kind`, `status`, `paths` and `exit_code`."""
        if key not in self._calls and len(self._calls) >= _MAX_CALLS:
            return
        call = self._calls.setdefault(key, {})
        had_ended = call.get("status") in _ENDED
        call |= {name: value for name, value in fields.items() if value is not None}
        if call.get("status") in _ENDED and not had_ended:
            task = asyncio.create_task(self._publish(key, call))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def describe(self, key: str, fields: Mapping[str, Any]) -> None:
        """Take what a permission says of a call, where nothing else was said: its title, kind and input."""
        if key in self._calls:
            known = self._calls[key]
            names = ("title", "kind", "rawInput")
            known |= {name: fields[name] for name in names if fields.get(name) and not known.get(name)}
        else:
            self.add(key, {name: fields.get(name) for name in ("title", "kind", "rawInput")})

    @property
    def running(self) -> str:
        """The titles of the calls that have not ended."""
        titles = [call_title(call) for call in self._calls.values() if call.get("status") not in _ENDED]
        return ", ".join(titles)[:_MAX_TITLE_CHARS]

    async def complete(self) -> None:
        """Return once all that was learned is an event."""
        await asyncio.gather(*self._publishing)

    async def _publish(self, key: str, call: Mapping[str, Any]) -> None:
        root = f"{self._work.tree.root}/"
        event = CodingCall(
            title=call_title(call),
            kind=str(call.get("kind", "other"))[:40],
            status=str(call["status"]),
            paths=[path.removeprefix(root)[:300] for path in call.get("paths", ())[:_MAX_PATHS]],
            exit_code=call.get("exit_code"),
        )
        await self._work.run.publish("coding call", {"session": self._work.number, "call": key}, event)


def parse_exit_code(output: Any) -> int | None:
    """The exit code of a command, where the output that an agent reports names it."""
    code = output.get("exit_code") if isinstance(output, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def call_title(call: Mapping[str, Any]) -> str:
    """The title of a call, for people: its command where it has one, since titles may mislead."""
    arguments = call.get("rawInput")
    command = arguments.get("command") if isinstance(arguments, dict) else None
    if isinstance(command, list):
        command = command[-1] if command[1:2] in (["-c"], ["-lc"]) else " ".join(map(str, command))
    return redact(str(command or call.get("title") or "a call without a title"))[:_MAX_TITLE_CHARS]


def render_prompt(how: str, text: str) -> str:
    """The prompt for some work: with what an agent has to know whose session goes on, or begins again."""
    if how == "resumed":
        return f"{_RESUMED}\n\n{text}"
    return f"{_RESTARTED}\n\n{text}" if how == "restarted" else text
