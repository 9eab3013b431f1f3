"""The calls of tools that a session may have lost: made, and cut off before it could keep their results.

A session that goes on is behind what it has done where its program died before it had written a result down.
Its model sees the call as interrupted then, and asks for it again, which is no second one. The conversations
that the gateway passes on show what a session knows.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshwright.component import ModelReply, ModelRequest
from meshwright.engine.work.protocol import hash_request

_MAX_ASKED = 100  # calls of models that no program has made so far
_HEAD_CHARS = 60  # of a result, by which it is found in a conversation
_SEPARATED = re.compile(r"[^A-Za-z0-9]$")  # what stands between a server's name and a tool's: mcp__mesh__buy


@dataclass
class _ToolUse:
    """A call of a tool: its number among equal ones, the ids that models gave it, and how its result begins.

    Without a beginning its answer has not left the gateway.
    """

    nth: int
    ids: set[str] = field(default_factory=set)
    head: str | None = None


class KnownCalls:
    """The calls of tools that a session's programs have made, kept in a file beside its home.

    An entry lasts until a model has replied to its result, or to what its own program made of it, such as a
    timeout: from then on the session is past it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: dict[str, list[_ToolUse]] = {}
        self._earlier: dict[str, list[_ToolUse]] = {}
        self._asked: list[tuple[str, str, Any, ModelRequest]] = []
        self._own_ids = set[str | None]()
        self._is_new = True
        """Whether the session has none of the calls of the file, as far as is known."""

    def go_on(self) -> None:
        """Take the calls of the session's earlier programs into account."""
        self._is_new = False
        with suppress(OSError, ValueError):
            for key, calls in json.loads(self._path.read_text()).items():
                entries = [_ToolUse(nth, set(ids), head) for nth, ids, head in calls]
                self._earlier[key], self._open[key] = entries, [*entries]

    def note_request(self, request: ModelRequest) -> None:
        """Forget the calls whose results a conversation shows."""
        if self._is_new:
            self._path.unlink(missing_ok=True)
            self._is_new = False
        for key, call in self._calls(self._earlier):
            if call.head is not None and _shows(request, call):
                self._earlier[key].remove(call)

    def note_reply(self, request: ModelRequest, reply: ModelReply) -> None:
        """Note what a model asks for, and that it knows the results in its conversation."""
        ids = self._own_ids & {message.tool_call_id for message in request.messages}
        past = [
            (key, call) for key, call in self._calls(self._open) if call.ids & ids or _shows(request, call)
        ]
        for key, call in past:
            self._open[key].remove(call)
        if past:
            self._write()
        for call in reply.tool_calls:
            with suppress(ValueError):
                self._asked.append((call.id, call.name, json.loads(call.arguments or "{}"), request))
        del self._asked[:-_MAX_ASKED]

    def lost(self, name: str, arguments: Any) -> tuple[str, int | None]:
        """The id that a model gave a call, and the number of the equal one that its session has lost, if any.

        Without an id, as of a call that a script makes, none counts as lost.
        """
        for asked in self._asked:
            call_id, called, given, request = asked
            is_named = called == name or (called.endswith(name) and _SEPARATED.search(called[: -len(name)]))
            if is_named and given == (arguments or {}):
                self._asked.remove(asked)
                candidates = self._earlier.get(_key(name, arguments), [])
                call = next((call for call in candidates if not _shows(request, call)), None)
                if call is not None:
                    candidates.remove(call)
                return call_id, None if call is None else call.nth
        return "", None

    def begin(self, name: str, arguments: Any, nth: int, call_id: str) -> None:
        """Note that a call begins, before it can take effect."""
        if call_id:
            calls = self._open.setdefault(_key(name, arguments), [])
            call = next((call for call in calls if call.nth == nth), None)
            if call is None:
                calls.append(call := _ToolUse(nth))
            call.ids.add(call_id)
            self._own_ids.add(call_id)
            self._write()

    def end(self, call_id: str, result: str) -> None:
        """Note that the answer to a call leaves."""
        for _, call in self._calls(self._open):
            if call_id in call.ids:
                call.head = result.strip().partition("\n")[0][:_HEAD_CHARS]
                self._write()

    def _calls(self, by_key: Mapping[str, list[_ToolUse]]) -> Iterator[tuple[str, _ToolUse]]:
        return iter([(key, call) for key, calls in by_key.items() for call in calls])

    def _write(self) -> None:
        by_key = {
            key: [(c.nth, [*c.ids], c.head) for c in calls] for key, calls in self._open.items() if calls
        }
        draft = self._path.with_suffix(".new")
        with suppress(OSError):  # without it the session's calls are all new, as they are mostly
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(by_key, file)
            draft.replace(self._path)


def _key(name: str, arguments: Any) -> str:
    return hash_request([name, arguments or {}])


def _shows(request: ModelRequest, call: _ToolUse) -> bool:
    """Whether a conversation has the result of a call, and no words of its program in its place."""
    if call.head is None:
        return False
    heads = {call.head, *(json.dumps(call.head, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))}
    texts = [message.text for message in request.messages if message.tool_call_id in call.ids]
    return any(head in text for head in heads for text in texts)
