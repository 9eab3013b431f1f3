"""A conversation by the Agent Client Protocol: its session, and its permissions, which people decide."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from typing import Any

from meshwright import Approval, WaitExpired
from meshwright.parts.coding.acp import AcpClient, Permission, PromptEnd
from meshwright.parts.coding.bridge import stdio_server
from meshwright.parts.coding.event_types import PermissionDecided
from meshwright.parts.coding.gateway import Gateway
from meshwright.parts.coding.programs import Launch
from meshwright.parts.coding.work import (
    CallReport,
    CodingWork,
    OpenedSession,
    call_title,
    parse_exit_code,
    render_prompt,
)

_MAX_INPUT_CHARS = 8_000
_PASSING = ("id", "_at", "_ms", "time", "timestamp")
"""The ends of names of ids and times."""
_CALLS = ("tool_call", "tool_call_update")


class AcpConversation:
    """One session by the protocol. Permissions are questions of the run, asked once for a call."""

    def __init__(
        self,
        work: CodingWork,
        launch: Launch,
        report: CallReport,
        gateway: Gateway,
        streams: tuple[StreamReader, StreamWriter],
        earlier: str,
    ) -> None:
        self._work, self._launch, self._report, self._gateway = work, launch, report, gateway
        self._earlier = earlier
        self._client = AcpClient(*streams, self._decide, self._update)
        self._prompt = ""

    async def listen(self) -> None:
        """Take what the program says until it ends."""
        await self._client.listen()

    async def open(self, text: str) -> OpenedSession:
        """Begin, or go on with the earlier session where the agent can."""
        client, earlier = self._client, self._earlier
        features = await client.initialize()
        folder, agent = str(self._work.tree.root), f"{features.name} {features.version}".strip()
        address, token = self._gateway.address, self._gateway.token
        headers = [{"name": "Authorization", "value": f"Bearer {token}"}]
        server: dict[str, Any] = {"type": "http", "name": "mesh", "url": f"{address}/mcp", "headers": headers}
        servers = [server if features.has_http_tools else stdio_server(address, token)]
        if earlier and await client.take_up(earlier, folder, servers, features):
            self._gateway.go_on()
            opened = OpenedSession(earlier, agent, "resumed")
        else:
            session_id = await client.new_session(folder, servers)
            opened = OpenedSession(session_id, agent, "restarted" if earlier else "new")
        if self._launch.mode:
            await client.set_mode(self._launch.mode)
        self._prompt = render_prompt(opened.how, text)
        return opened

    async def ended(self) -> PromptEnd:
        """Ask for the work; returns how the agent ended it."""
        return await self._client.prompt(self._prompt, self._work.settings.max_seconds)

    async def _decide(self, permission: Permission) -> str | None:
        call = dict(self._report.call(str(permission.call.get("toolCallId"))))
        call |= {name: value for name, value in permission.call.items() if value is not None}
        self._report.describe(str(permission.call.get("toolCallId", ""))[:200], call)
        if self._work.settings.permissions != "ask":  # the box is the permission
            return permission.option(allow=True)
        title = call_title(call)
        about: dict[str, Any] = {"kind": str(call.get("kind", "other"))}
        about |= {"input": _input(call.get("rawInput")), "offers": [*permission.names]}
        decisions, key = self._work.decisions, json.dumps([title, about])  # tools may have the same input
        if key not in decisions:
            decisions[key] = asyncio.ensure_future(self._ask_person(title, about))
            decisions[key].add_done_callback(self._interrupt)
        answer = await asyncio.shield(decisions[key])
        if not answer.approve:
            self._work.denied[title] = answer.reason
        return permission.option(allow=answer.approve)

    def _interrupt(self, decision: asyncio.Future[Approval]) -> None:
        """Have the run's own code raise what kept a permission from being decided."""
        error = None if decision.cancelled() else decision.exception()
        if error is not None and not self._gateway.interrupted.done():
            self._gateway.interrupted.set_exception(error)

    async def _ask_person(self, title: str, about: Mapping[str, Any]) -> Approval:
        """Ask for a permission; the same question in a later claim has its answer."""
        run, question = self._work.run, f"{self._work.name} asks for a permission: {title}"
        try:
            answer = await run.ask_person(question, shape=Approval, about=about)
        except WaitExpired:
            answer = Approval(approve=False, reason="it was not answered in time")
        decided = PermissionDecided(title=title, allowed=answer.approve)
        await run.publish("coding permission", {"about": about}, decided)
        return answer

    def _update(self, update: Mapping[str, Any]) -> None:
        if update.get("sessionUpdate") not in _CALLS:
            return
        listed = update.get("locations")
        locations = listed if isinstance(listed, list) else []
        paths = [str(place.get("path", "")) for place in locations if isinstance(place, dict)]
        names = ("title", "kind", "status", "rawInput")
        fields = {name: update.get(name) for name in names} | {"paths": paths or None}
        fields["exit_code"] = parse_exit_code(update.get("rawOutput"))
        self._report.add(str(update.get("toolCallId", ""))[:200], fields)


def _input(value: Any) -> str:
    """The input of a call as text, without what differs when a session is taken up again: ids and times."""
    if isinstance(value, dict) and "command" in value:
        value = {name: value[name] for name in ("command", "cwd") if name in value}
    return json.dumps(_lasting(value), ensure_ascii=False, sort_keys=True)[:_MAX_INPUT_CHARS]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        names = [name for name in value if not str(name).lower().endswith(_PASSING)]
        return {name: _lasting(value[name]) for name in names}
    return [_lasting(item) for item in value] if isinstance(value, list) else value
