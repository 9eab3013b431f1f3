"""A conversation without an adapter: `codex exec --json` and `claude -p --output-format stream-json`.

The prompt is all of their input; their output is an event a line. They ask for no permission.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from meshwright.core.streams import PEER_GONE
from meshwright.parts.coding.acp import PromptEnd, read_lines
from meshwright.parts.coding.errors import CodingAgentFailed, CodingAgentGone, SessionLost
from meshwright.parts.coding.work import CallReport, CodingWork, OpenedSession, parse_exit_code, render_prompt

_OPEN_SECONDS = 120.0
_KINDS = {"Bash": "execute", "Edit": "edit", "Write": "edit", "MultiEdit": "edit", "Read": "read"}


class HeadlessConversation:
    """One call of a program, which works on a prompt and ends."""

    def __init__(
        self, work: CodingWork, report: CallReport, reader: StreamReader, writer: StreamWriter, earlier: str
    ) -> None:
        self._work, self._report, self._reader, self._writer = work, report, reader, writer
        self._earlier = earlier
        self._read: Callable[[Mapping[str, Any]], None]
        self._read = self._read_codex if work.settings.program == "codex" else self._read_claude
        loop = asyncio.get_running_loop()
        self._session: asyncio.Future[str] = loop.create_future()
        self._end: asyncio.Future[PromptEnd] = loop.create_future()
        self._text = ""

    async def listen(self) -> None:
        """Take what the program says until it ends."""
        error: CodingAgentFailed = CodingAgentGone("the coding agent ended in the middle of its work")
        try:
            await self._take_all()
        except CodingAgentFailed as failed:
            error = failed
        if not self._session.done():
            no_session = SessionLost("the coding agent does not know its session any more")
            self._session.set_exception(no_session if self._earlier else error)
        if not self._end.done():
            self._end.set_exception(error)
            self._end.exception()  # nobody may ask for it

    async def open(self, text: str) -> OpenedSession:
        """Give the prompt, and wait for the id of the session."""
        how = "resumed" if self._earlier else "new"
        with suppress(*PEER_GONE):  # `listen` notes its end, and the session has its last words
            self._writer.write(render_prompt(how, text).encode())
            self._writer.write_eof()
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                return OpenedSession(await self._session, f"{self._work.settings.program} headless", how)
        except TimeoutError:
            raise CodingAgentFailed(
                f"the coding agent began no session in {_OPEN_SECONDS:g} seconds"
            ) from None

    async def ended(self) -> PromptEnd:
        """How the agent ended the work, within the time of a session."""
        try:
            async with asyncio.timeout(self._work.settings.max_seconds):
                return await self._end
        except TimeoutError:
            return PromptEnd("cancelled", self._text, is_late=True)

    async def _take_all(self) -> None:
        async for line in read_lines(self._reader):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a line of a log
            if isinstance(event, dict):
                self._read(event)

    def _begin(self, session_id: Any) -> None:
        if isinstance(session_id, str) and session_id and not self._session.done():
            self._session.set_result(session_id[:200])

    def _finish(self, reason: str, text: str) -> None:
        if not self._end.done():
            self._end.set_result(PromptEnd(reason, text))

    def _read_codex(self, event: Mapping[str, Any]) -> None:
        item = event.get("item")
        match event.get("type"):
            case "thread.started":
                self._begin(event.get("thread_id"))
            case "item.completed" if isinstance(item, dict):
                self._read_item(item)
            case "turn.completed":
                self._finish("end_turn", self._text)
            case "turn.failed":
                error = event.get("error")
                self._finish(
                    "refusal", str(error.get("message") if isinstance(error, dict) else error)[:2_000]
                )
            case _:
                pass

    def _read_item(self, item: Mapping[str, Any]) -> None:
        key, status = (
            str(item.get("id", ""))[:200],
            "failed" if item.get("status") == "failed" else "completed",
        )
        match item.get("type"):
            case "agent_message":
                self._text = str(item.get("text", ""))
            case "command_execution":
                fields = {"title": item.get("command"), "kind": "execute", "status": status}
                self._report.add(key, fields | {"exit_code": parse_exit_code(item)})
            case "file_change":
                listed = item.get("changes")
                changes = listed if isinstance(listed, list) else []
                paths = [str(change.get("path", "")) for change in changes if isinstance(change, dict)]
                self._report.add(
                    key, {"title": "Change files", "kind": "edit", "status": status, "paths": paths}
                )
            case _:
                pass

    def _read_claude(self, event: Mapping[str, Any]) -> None:
        self._begin(event.get("session_id"))
        match event.get("type"):
            case "assistant" | "user":
                message = event.get("message")
                content = message.get("content") if isinstance(message, dict) else None
                for block in content if isinstance(content, list) else []:
                    if isinstance(block, dict):
                        self._read_block(block)
            case "result":
                text = str(event.get("result") or self._text)
                self._finish("refusal" if event.get("is_error") is True else "end_turn", text)
            case _:
                pass

    def _read_block(self, block: Mapping[str, Any]) -> None:
        match block.get("type"):
            case "text":
                self._text = str(block.get("text", ""))
            case "tool_use":
                name, arguments = str(block.get("name", "")), block.get("input")
                arguments = arguments if isinstance(arguments, dict) else {}
                path = arguments.get("file_path")
                title = arguments.get("command") or (f"{name} {path}" if path else name)
                fields = {
                    "title": title,
                    "kind": _KINDS.get(name, "other"),
                    "paths": [str(path)] if path else None,
                }
                self._report.add(str(block.get("id", ""))[:200], fields)
            case "tool_result":
                status = "failed" if block.get("is_error") is True else "completed"
                self._report.add(str(block.get("tool_use_id", ""))[:200], {"status": status})
            case _:
                pass
