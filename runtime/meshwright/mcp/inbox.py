"""The tools of MCP servers that are withheld, as items of the inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

from meshwright.core.messages import Caller
from meshwright.events.filter import TaskFilter
from meshwright.events.inbox import Question, question_id
from meshwright.events.inbox_sources import SourcePage
from meshwright.mcp.consent import (
    ACCEPTED,
    REFUSED,
    RELEASED,
    WITHHELD,
    Consents,
    ConsentView,
    ToolDocument,
    difference,
)
from meshwright.work.people import Approval

Decide = Callable[[Caller, str, str, str, str, str], Awaitable[Any]]
"""Accepts or refuses a tool: the caller, the action, the server, the tool, its digest, the reason."""
_TENANT = Caller().tenant_id  # servers are the mesh's
_TOOLS = 10**9  # more than a server ever has: the position of an item is that of its server, and its own


class WithheldTools:
    """Lists the tools of servers that wait for a person, and those that one has decided on."""

    name = "mcp"
    event_types: Collection[str] = (WITHHELD, ACCEPTED, REFUSED, RELEASED)

    def __init__(self, consents: Consents, servers: Sequence[str], decide: Decide) -> None:
        self._consents = consents
        self._servers = servers
        self._decide = decide

    async def page(
        self,
        tenant_id: str,
        *,
        id: str | None,
        ended: bool,
        of_task: TaskFilter | None,
        limit: int,
        after: int,
    ) -> SourcePage:
        """By server, the oldest first. They are of no task: a filter of tasks leaves all out."""
        if tenant_id != _TENANT or of_task is not None:
            return SourcePage([])
        views = await asyncio.gather(*map(self._consents.view, self._servers))
        found = {
            place * _TOOLS + int(item.wait_id.rpartition("/")[2]): item
            for place, (server, view) in enumerate(zip(self._servers, views, strict=True))
            for item in _items(server, view)
            if item.wait_id
            and (ended or item.status == "open")  # earlier versions kept some without a key
            and (id is None or id in (item.id[: len(id)], item.id[-len(id) :]))
        }
        listed = sorted(place for place in found if place > after)
        page = listed[:limit]
        return SourcePage([found[place] for place in page], page[-1] if len(listed) > limit else None)

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
        known = view.accepted.get(tool.name)
        why = "is new" if known is None else "has changed"
        subject = {"is_new": known is None, "digest": tool.digest, "difference": difference(known, tool)}
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
