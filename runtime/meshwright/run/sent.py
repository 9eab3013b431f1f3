"""The messages sent to the model at each step, as the journal stores them: all at first, then the new ones.

A conversation grows with every step, and most of what it grows by is in the journal already: replies of the
model, and results of tools. So a step keeps which earlier step it continues, and only what is new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import attrgetter, is_
from typing import Any, NamedTuple

from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.run.tool_calls import error_text

_MAX_CONVERSATIONS = 8  # conversations of one run that go on side by side
_SHORT_CHARS = 200  # a result of a tool that is as short is kept whole
_MAX_DATA_CHARS = 1_000  # of a file in a message
_APART = ("messages", "context", "user", "timeout_seconds", "cache")
_SETTINGS = tuple(name for name in ModelRequest.__struct_fields__ if name not in _APART)
_settings = attrgetter(*_SETTINGS)
"""All of a request but its messages and what changes no answer."""


class _Conversation(NamedTuple):
    path: str
    messages: tuple[ChatMessage, ...]
    settings: tuple[Any, ...]
    reply: ModelReply | None


class SentMessages:
    """The messages that a run has sent to the model so far; a step stores `max_chars` of them."""

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._conversations: list[_Conversation] = []
        self._results: set[str] = set()

    def add_results(self, contents: Iterable[str]) -> None:
        """Note results of tools that steps have journaled, in the words that the model gets.

        Errors are kept whole, since calls of unknown tools are no steps.
        """
        self._results.update(
            content
            for content in contents
            if len(content) > _SHORT_CHARS and not content.startswith(error_text("")[:-2])
        )

    def record_of(self, request: ModelRequest) -> dict[str, Any]:
        """What a step has to keep of its request.

        `since` is the path of the step that it continues, `same` how many of the messages are those that it
        had, `messages` are the others. Of those, `{"reply": true}` stands for the reply of that step, and
        `result` for the result of a tool, by a hash of its words. `request` is everything else, where it
        differs.
        """
        continued, same = None, 0
        for conversation in reversed(self._conversations):
            shared = _shared(conversation.messages, request.messages)
            if shared > same:
                continued, same = conversation, shared
        record: dict[str, Any] = {"since": continued.path, "same": same} if continued is not None else {}
        new = request.messages[same:]
        reply = continued.reply.message() if continued is not None and continued.reply is not None else None
        replied = bool(new) and new[0] == reply
        kept: list[ChatMessage | dict[str, Any]] = [{"reply": True}] if replied else []
        left = self._max_chars
        for message in new[replied:]:
            kept.append(self._kept(message, left))
            left = max(0, left - len(message.content))
        record["messages"] = kept
        settings = _settings(request)
        if continued is None or continued.settings != settings:
            record["request"] = dict(zip(_SETTINGS, settings, strict=True))
        return record

    def add(self, path: str, request: ModelRequest, reply: ModelReply | None) -> None:
        """Note what a step sent to the model, and its reply, also of a step that was journaled before."""
        for index, conversation in enumerate(self._conversations):
            if len(conversation.messages) <= _shared(conversation.messages, request.messages):
                del self._conversations[index]
                break
        self._conversations.append(_Conversation(path, request.messages, _settings(request), reply))
        del self._conversations[:-_MAX_CONVERSATIONS]

    def _kept(self, message: ChatMessage, max_chars: int) -> ChatMessage | dict[str, Any]:
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
