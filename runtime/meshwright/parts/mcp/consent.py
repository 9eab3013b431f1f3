"""Consent to the tools of a server: the tools, as they were described, that a person has agreed to.

The words of a server about its tools steer the models that read them. When a server is used first, its tools
that the settings name are agreed to; later a tool with other words, another schema or other hints, or a new
one, is withheld until a person accepts it. One actor for each server keeps that, on every store."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime
from difflib import unified_diff
from fnmatch import fnmatchcase
from typing import Any

from msgspec import field
from msgspec.structs import replace

from meshwright import Approval
from meshwright.component import Actor, ActorRef, Caller, Turn, turn
from meshwright.kit import (
    Conflict,
    InvalidInput,
    NotFound,
    Question,
    Runtime,
    SourcePage,
    SourceQuery,
    Struct,
    question_id,
    topics,
)
from meshwright.parts.mcp.event_types import ToolDecided, ToolReleased, ToolWithheld

CONSENT = "mcp-consent"
WITHHELD, ACCEPTED, REFUSED = "mcp.tool_withheld", "mcp.tool_accepted", "mcp.tool_refused"
RELEASED = "mcp.tool_released"  # without a decision: the server has it as before, or no more
_MAX_SHOWN_CHARS = 32_000  # of a tool's document: a longer one cannot be accepted
_DIGEST_CHARS = 16
Decide = Callable[[Caller, str, str, str, str, str], Awaitable[Any]]
"""Accepts or refuses a tool: the caller, the action, the server, the tool, its digest, the reason."""
_TENANT = Caller().tenant_id  # servers are the mesh's
_TOOLS = 10**9  # more than a server ever has: the position of an item is that of its server, and its own


class ToolDocument(Struct):
    """A tool as its server describes it: its name, and the rest as JSON text with the hash of it.

    One that was withheld has the `key` of that and the time, and who has accepted or refused it, and when.
    """

    name: str
    digest: str
    text: str = ""
    key: str = ""
    since: datetime | None = None
    accepted_by: str = ""
    refused_by: str = ""
    decided_at: datetime | None = None

    @classmethod
    def describe(cls, name: str, text: str) -> ToolDocument:
        """Describe a tool; a text too long to be shown is stored in part, and hashed whole."""
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:_DIGEST_CHARS]
        return cls(name=name, digest=digest, text=text[:_MAX_SHOWN_CHARS])

    @property
    def is_whole(self) -> bool:
        """Whether all of it is stored, and so can be shown."""
        return "cut" not in self.document

    @property
    def document(self) -> dict[str, Any]:
        """All that is kept of it, as data."""
        try:
            return json.loads(self.text)
        except ValueError:  # it was too long to be kept whole
            return {"name": self.name, "cut": self.text}


class ServerOffer(Struct):
    """The tools that a server has now, of those that the patterns of its table name."""

    patterns: tuple[str, ...]
    tools: tuple[ToolDocument, ...]


class Deciding(Struct):
    """A person's yes or no to a tool as the digest names it; `by` is who says so."""

    tool: str
    digest: str
    by: str
    reason: str = ""


class ConsentView(Struct, frozen=False):
    """The tools of a server, by name: as they were agreed to, and as they are withheld."""

    patterns: tuple[str, ...] = ()
    accepted: dict[str, ToolDocument] = field(default_factory=dict)
    withheld: dict[str, ToolDocument] = field(default_factory=dict)
    withheld_count: int = field(default=0, name="asked")  # as earlier versions stored it
    """How many tools were withheld: no two have the same key."""


class ConsentActor(Actor[ConsentView]):
    """Keeps which tools of one server are agreed to; its id is the name of the server's table."""

    @turn
    def offer(self, turn: Turn, offer: ServerOffer) -> ConsentView:
        """Take what the server has now, and return what is agreed to and what is withheld.

        A tool that is new since the operator has named it is agreed to; one that the server brings is not.
        """
        state = self.state
        is_first = not state.accepted and not state.withheld
        before = state.withheld
        withheld: dict[str, ToolDocument] = {}
        for tool in offer.tools:
            accepted = state.accepted.get(tool.name)
            is_named_now = accepted is None and not _fits(tool.name, state.patterns)
            if is_first or is_named_now:
                state.accepted[tool.name] = tool
            elif accepted is None or accepted.digest != tool.digest:
                current = before.get(tool.name)
                if current is None or current.digest != tool.digest:
                    current = self._withhold(turn, tool, is_new=accepted is None)
                withheld[tool.name] = current
        for name in (name for name in before if name not in withheld):
            turn.publish(ToolReleased(server=self.ref.id, tool=name))
        state.withheld, state.patterns = withheld, offer.patterns
        return state

    def _withhold(self, turn: Turn, tool: ToolDocument, *, is_new: bool) -> ToolDocument:
        self.state.withheld_count += 1
        turn.publish(ToolWithheld(server=self.ref.id, tool=tool.name, is_new=is_new))
        return replace(tool, key=f"mcp/{self.ref.id}/{self.state.withheld_count}", since=turn.now)

    @turn
    def accept(self, turn: Turn, deciding: Deciding) -> ConsentView:
        """Agree to a tool as a person has seen it.

        Raises NotFound, Conflict where it has changed since, InvalidInput where it cannot be shown whole.
        """
        tool = self._withheld(deciding)
        if not tool.is_whole:
            raise InvalidInput(
                f"The tool {tool.name} of {self.ref.id} describes itself in over {_MAX_SHOWN_CHARS:,} "
                "characters, which cannot be shown whole to those who accept it",
                remedy="Refuse it, or have its server describe it in fewer",
                field="tool",
            )
        del self.state.withheld[tool.name]
        self.state.accepted[tool.name] = replace(
            tool, accepted_by=deciding.by, refused_by="", decided_at=turn.now
        )
        self._tell(turn, ACCEPTED, tool, deciding)
        return self.state

    @turn
    def refuse(self, turn: Turn, deciding: Deciding) -> ConsentView:
        """Leave a tool withheld as it is now, without asking again. Raises what `accept` raises."""
        tool = self._withheld(deciding)
        self.state.withheld[tool.name] = replace(tool, refused_by=deciding.by, decided_at=turn.now)
        self._tell(turn, REFUSED, tool, deciding)
        return self.state

    def _withheld(self, deciding: Deciding) -> ToolDocument:
        tool = self.state.withheld.get(deciding.tool)
        if tool is None:
            raise NotFound(f"No tool {deciding.tool!r} of {self.ref.id} is withheld", field="tool")
        if tool.digest != deciding.digest:
            raise Conflict(
                f"The tool {tool.name} of {self.ref.id} has changed again", remedy="Look at it once more"
            )
        return tool

    def _tell(self, turn: Turn, event_type: str, tool: ToolDocument, deciding: Deciding) -> None:
        payload = ToolDecided(server=self.ref.id, tool=tool.name, by=deciding.by, reason=deciding.reason)
        turn.publish(topics.MESH, event_type, payload)


class Consents:
    """The consents of a mesh, from any of its processes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def offer(self, server: str, patterns: Sequence[str], tools: Sequence[ToolDocument]) -> ConsentView:
        """Say which tools a server has now; returns which of them are agreed to."""
        return await self._call(server, "offer", ServerOffer(patterns=tuple(patterns), tools=tuple(tools)))

    async def accept(self, server: str, deciding: Deciding) -> ConsentView:
        """Agree to a tool of a server. Raises NotFound and Conflict."""
        return await self._call(server, "accept", deciding)

    async def refuse(self, server: str, deciding: Deciding) -> ConsentView:
        """Refuse a tool of a server as it is now. Raises NotFound and Conflict."""
        return await self._call(server, "refuse", deciding)

    async def view(self, server: str) -> ConsentView:
        """The consents to the tools of a server, as they are stored."""
        return await self._runtime.read(ActorRef(CONSENT, server)) or ConsentView()

    def listen(self, server: str, call: Callable[[], None]) -> Callable[[], None]:
        """Call back once a tool of a server is accepted, in any process; the result ends that."""
        return self._runtime.listen(
            topics.MESH,
            lambda event: call() if ToolDecided.from_payload(event.payload).server == server else None,
            (ACCEPTED,),
        )

    async def _call(self, server: str, method: str, body: Struct | None = None) -> ConsentView:
        reply = await self._runtime.call(ActorRef(CONSENT, server), method, body)
        return ConsentView.model_validate(reply)


def difference(before: ToolDocument | None, now: ToolDocument) -> str:
    """How a tool differs from the one that was agreed to, as text; all of a new one.

    No line of it can pass for one of ours, or steer a terminal.
    """
    if not now.is_whole:
        head = f"It has over {_MAX_SHOWN_CHARS:,} characters, and can only be refused. It begins:"
        return "\n".join([head, *_lines(now)])
    if before is None:
        return "\n".join(["It is new:", *_lines(now)])
    if not before.is_whole:  # earlier versions stored less
        return "\n".join(["Its earlier description is not stored whole. It is now:", *_lines(now)])
    return "\n".join(unified_diff(_lines(before), _lines(now), "agreed to", "now", lineterm=""))


def _lines(tool: ToolDocument) -> list[str]:
    text = json.dumps(tool.document, indent=2, sort_keys=True, ensure_ascii=True)
    return [f"  {line}" for line in text.splitlines()]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class WithheldTools:
    """Lists the tools of servers that wait for a person, and those that one has decided on."""

    name = "mcp"
    event_types: Collection[str] = (WITHHELD, ACCEPTED, REFUSED, RELEASED)

    def __init__(self, consents: Consents, servers: Sequence[str], decide: Decide) -> None:
        self._consents = consents
        self._servers = servers
        self._decide = decide

    async def page(self, query: SourceQuery) -> SourcePage:
        """By server, the oldest first. They are of no task: a filter of tasks leaves all out."""
        if query.tenant_id != _TENANT or query.of_task is not None:
            return SourcePage([])
        views = await asyncio.gather(*map(self._consents.view, self._servers))
        items = {
            place * _TOOLS + int(item.wait_id.rpartition("/")[2]): item
            for place, (server, view) in enumerate(zip(self._servers, views, strict=True))
            for item in _items(server, view)
            if item.wait_id
            and (query.with_ended or item.status == "open")  # earlier versions kept some without a key
            and query.names(item)
        }
        listed = sorted(place for place in items if place > query.after)
        page = listed[: query.limit]
        return SourcePage([items[place] for place in page], page[-1] if len(listed) > query.limit else None)

    async def answer(self, item: Question, value: Any, caller: Caller) -> None:
        """Accept or refuse a tool. Raises Conflict where it has changed, or is withheld no longer."""
        action = ACCEPTED if value["approve"] else REFUSED
        server, tool, digest = (str(item.subject[name]) for name in ("server", "tool", "digest"))
        await self._decide(caller, action, server, tool, digest, value.get("reason", ""))


def _items(server: str, view: ConsentView) -> Iterator[Question]:
    for tool in view.accepted.values():
        if tool.accepted_by:
            yield _item(server, tool, "was withheld", {}, tool.accepted_by)
    for tool in view.withheld.values():
        before = view.accepted.get(tool.name)
        why = "is new" if before is None else "has changed"
        subject = {"is_new": before is None, "digest": tool.digest, "difference": difference(before, tool)}
        yield _item(server, tool, why, subject, tool.refused_by)


def _item(server: str, tool: ToolDocument, why: str, subject: dict[str, Any], decided_by: str) -> Question:
    return Question(
        id=question_id(_TENANT, tool.key),
        seq=0,
        wait_id=tool.key,
        task_id="",
        tenant_id=_TENANT,
        source=WithheldTools.name,
        status="answered" if decided_by else "open",
        question=f"The tool {tool.name} of the MCP server {server} {why}. May agents read this and call it?",
        subject={"server": server, "tool": tool.name, **subject},
        answer_schema=Approval.model_json_schema(),
        since=tool.since,  # earlier versions kept none
        answered_by=decided_by or None,
        ended_at=tool.decided_at,
    )
