"""What the model is told at each step, as the journal keeps it: at first all, later what was added.

A conversation grows with every step, and most of what it grows by is in the journal already: replies of the
model, and results of tools. So a step keeps which earlier step it continues, and only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any, NamedTuple

from meshwright.models.port import CallContext, ChatMessage, ModelReply, ModelRequest
from meshwright.run.tool_calls import error_text

_MAX_TELLINGS = 8  # conversations of one run that go on side by side
_SHORT_CHARS = 200  # a result of a tool that is as short is kept whole
_MAX_DATA_CHARS = 1_000  # of a file in a message
_NO_CONTEXT = CallContext()
_APART = ("messages", "context", "user", "timeout_seconds", "cache")
_SETTINGS = tuple(name for name in ModelRequest.__struct_fields__ if name not in _APART)


class _Telling(NamedTuple):
    path: str
    request: ModelRequest
    reply: ModelReply | None


class Told:
    """What the model was told in a run so far; a step keeps `max_chars` of it."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._tellings: list[_Telling] = []
        self._results: set[str] = set()

    def add_results(self, contents: Iterable[str]) -> None:
        """Note results of tools that steps have journaled, in the words in which the model is told them.

        Errors are kept whole, since calls of unknown tools are no steps.
        """
        self._results.update(
            content
            for content in contents
            if len(content) > _SHORT_CHARS and not content.startswith(error_text("")[:-2])
        )

    def of(self, request: ModelRequest) -> dict[str, Any]:
        """What a step has to keep of its request.

        `since` is the path of the step that it continues, `same` how many of the messages are those that it
        had, `messages` are the others. Of those, `{"reply": true}` stands for the reply of that step, and
        `result` for the result of a tool, by a hash of its words. `request` is everything else, where it
        differs.
        """
        telling, same = None, 0
        for known in reversed(self._tellings):
            shared = _shared(known.request.messages, request.messages)
            if shared > same:
                telling, same = known, shared
        told: dict[str, Any] = {"since": telling.path, "same": same} if telling is not None else {}
        new = request.messages[same:]
        reply = telling.reply.message() if telling is not None and telling.reply is not None else None
        replied = bool(new) and new[0] == reply
        kept: list[ChatMessage | dict[str, Any]] = [{"reply": True}] if replied else []
        left = self._max_chars
        for message in new[replied:]:
            kept.append(self._kept(message, left))
            left = max(0, left - len(message.content))
        told["messages"] = kept
        if telling is None or _settings(telling.request) != _settings(request):
            told["request"] = {name: getattr(request, name) for name in _SETTINGS}
        return told

    def add(self, path: str, request: ModelRequest, reply: ModelReply | None) -> None:
        """Note what a step told the model, and its reply, also of a step that was journaled before."""
        for index, known in enumerate(self._tellings):
            if len(known.request.messages) <= _shared(known.request.messages, request.messages):
                del self._tellings[index]
                break
        apart = request.model_copy(update={"context": _NO_CONTEXT})  # which has this: not to be a circle
        self._tellings.append(_Telling(path, apart, reply))
        del self._tellings[:-_MAX_TELLINGS]

    def _kept(self, message: ChatMessage, max_chars: int) -> ChatMessage | dict[str, Any]:
        """A message as it is kept."""
        content = message.content
        if message.role == "tool" and content in self._results:
            return {"role": "tool", "tool_call_id": message.tool_call_id, "result": digest_of(content)}
        if len(content) <= max_chars and not message.parts:
            return message
        fields = message.model_dump()
        return {**fields, "content": _slim(content, max_chars), **_slim_parts(fields, max_chars)}


def digest_of(content: str) -> str:
    """The hash by which a result of a tool is found again."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _settings(request: ModelRequest) -> tuple[Any, ...]:
    """All of a request but its messages and what changes no answer."""
    return tuple(getattr(request, name) for name in _SETTINGS)


def _shared(before: Sequence[ChatMessage], now: Sequence[ChatMessage]) -> int:
    """With how many of the same messages both begin."""
    if all(map(is_, before, now)):  # the usual case, at a fifth of the cost
        return min(len(before), len(now))
    same = 0
    for one, other in zip(before, now, strict=False):
        if one is not other and one != other:
            break
        same += 1
    return same


def _slim_parts(fields: dict[str, Any], max_chars: int) -> dict[str, Any]:
    return {"parts": _slim(fields["parts"], max_chars)} if fields.get("parts") else {}


def _slim(value: Any, max_chars: int) -> Any:
    """Contents of a message without what is too large to keep: a file becomes its kind and its size."""
    if isinstance(value, dict):
        return {name: _slim(item, max_chars) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_slim(item, max_chars) for item in value]
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_DATA_CHARS and not any(character.isspace() for character in value):
        kind = value[:100].partition(",")[0] if value.startswith("data:") else "data"
        return f"[{kind}, {len(value):,} characters, sha256 {digest_of(value)}]"
    if len(value) > max_chars:
        return f"{value[:max_chars]}\n[not kept: {len(value) - max_chars:,} more characters]"
    return value
