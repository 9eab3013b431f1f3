"""Replies of models: shown in pieces while they are written, asked for again where partial, recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel

from meshwright.agents.run.preparation import PreparedPrompt
from meshwright.agents.tools.limited_work import cut
from meshwright.core.encoding import Struct
from meshwright.core.errors import ModelError, error_of_code
from meshwright.core.step_events import CutOffReply, InvalidAnswer
from meshwright.engine.work.records import ProgressEvent
from meshwright.models.errors import EmptyReply, ReplyCutOff, StructureInvalid
from meshwright.models.port import STREAM_RESTART, ChatMessage, ModelReply, OnDelta
from meshwright.models.structure import read_answer
from meshwright.models.thinking import Thinking, thinking_callback

MAX_EMPTY = 2  # replies in a row that are asked for again
_MAX_KEPT_CHARS = 100_000  # of a stream, in case its reader gives it up
MAX_PARTS = 10  # continuations of one answer
MAX_ROOM = 4  # times the prompt's max_tokens, if the model's maximum is unknown
MAX_TRIES = 4  # of a reply that has to be whole
_MIN_OVERLAP = 16  # characters of a part that its continuation repeats; fewer may be chance

ANSWER_NOW = ChatMessage(role="user", content="Answer now, with what you have; no more tools can be called.")
REPLY_WAS_EMPTY = ChatMessage(role="user", content="Your reply was empty. Answer now, or call a tool.")
CONTINUE = ChatMessage(
    role="user",
    content="Your answer was cut off at the length limit. Continue exactly where it stopped: repeat nothing, "
    "and add no remark.",
)


def write_less(room: int) -> ChatMessage:
    """The request to a model whose reply has to be whole, and does not fit."""
    return ChatMessage(
        role="user",
        content=f"Your last reply was cut off at its limit of {room} tokens and was dropped. Write less in "
        "one reply: shorter arguments, or a long text in several parts.",
    )


def is_cut_off(reply: ModelReply) -> bool:
    """Whether a reply ended at `max_tokens`."""
    return reply.finish_reason == "length"


def is_empty(reply: ModelReply) -> bool:
    """Whether a reply has neither text, nor a file, nor a call of a tool."""
    return not (reply.tool_calls or reply.files or reply.content.strip())


def must_be_whole(reply: ModelReply, shape: type[BaseModel] | None) -> bool:
    """Whether a reply is of no use in parts: a call of a tool, JSON, or thoughts without a word."""
    return bool(reply.tool_calls) or shape is not None or is_empty(reply)


def joined(text: str, more: str) -> str:
    """Joins a text and its continuation without the words that it repeats: all of the text, or the last."""
    if more.startswith(text):
        return more
    for length in range(min(len(text), len(more)), _MIN_OVERLAP - 1, -1):
        if text.endswith(more[:length]):
            return text + more[length:]
    return text + more


def unusable(reply: ModelReply, prepared: PreparedPrompt, room: int, text: str = "") -> ModelError:
    """The error for a reply that stays cut off, or empty; `text` is what came before it."""
    model, text = reply.model or prepared.model, joined(text, reply.content)
    if not (text or is_cut_off(reply)):
        remedy = "Raise max_tokens in its prompt, since reasoning counts, or name another model"
        if not (reply.thinking or reply.usage.reasoning_tokens):
            remedy = (
                "Set stream = false under [models] where a gateway drops calls of tools from streams, raise "
                "max_tokens in its prompt where it reasons, or name another model"
            )
        return EmptyReply(f"{model} gave neither text nor a tool call, {MAX_EMPTY + 1} times", remedy=remedy)
    what = "in a tool call, which was not run" if reply.tool_calls else "before its answer was whole"
    return ReplyCutOff(
        f"{model} reached max_tokens ({room}) {what}, also when asked again",
        text=text,
        remedy="Raise max_tokens in its prompt; what it wrote is in the task's reply.cut_off events",
    )


PAUSE_SECONDS = 0.1  # at least, between two pieces of one answer
_MIN_CHARS = 32  # that need not wait for more
MAX_CHARS = 65_536  # of one piece


class StreamedPieces:
    """Passes the pieces of a stream on, and keeps them as plain data, up to a limit."""

    def __init__(self, on_delta: OnDelta) -> None:
        self.pieces: list[Any] = []
        self._left = _MAX_KEPT_CHARS
        self._on_delta = on_delta
        self._on_thinking = thinking_callback(on_delta)
        if self._on_thinking is not None:
            self.thinking = self._think

    def __call__(self, text: str) -> None:
        """Take a piece."""
        self._keep(text, len(text))
        self._on_delta(text)

    def _think(self, piece: Thinking) -> None:
        assert self._on_thinking is not None
        self._keep([*piece], len(piece.text) + (0 if piece.block is None else len(str(piece.block))))
        self._on_thinking(piece)

    def _keep(self, piece: Any, size: int) -> None:
        self._left -= size
        if self._left >= 0:
            self.pieces.append(piece)


def hand_on_again(pieces: Sequence[Any], on_delta: OnDelta) -> None:
    """Hand on the pieces of a stream that `StreamedPieces` has kept."""
    take_thinking = thinking_callback(on_delta)
    for piece in pieces:
        if isinstance(piece, str):
            on_delta(piece)
        elif take_thinking is not None:
            take_thinking(Thinking(*piece))


class Deltas:
    """Takes an answer as the model writes it (`OnDelta`), and shows it in pieces: at most ten a second.

    A piece has at least 32 characters, or what came in 100 ms, and the last what is left. `n` counts those of
    an answer from 1: where it is 1 again the answer starts again, and what came before is void.
    Within a block: what is gathered when that fails is not shown. `on_delta` takes the same words at once,
    and the thinking, which is not shown.
    """

    def __init__(self, show: Callable[[dict[str, Any]], None], on_delta: OnDelta | None = None) -> None:
        self._show = show
        self._on_delta = on_delta
        self._on_thinking = thinking_callback(on_delta)
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._n = 0
        self._shown_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, text: str) -> None:
        """Take the next words, or STREAM_RESTART."""
        if self._on_delta is not None:
            self._on_delta(text)
        if text == STREAM_RESTART:
            self._restart()
            return
        self._text += text
        if len(self._text) >= _MIN_CHARS and self._loop.time() - self._shown_at >= PAUSE_SECONDS:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._flush)

    def thinking(self, piece: Thinking) -> None:
        """Take the next thinking."""
        if self._on_thinking is not None:
            self._on_thinking(piece)

    def __enter__(self) -> Deltas:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        while kind is None and self._text:
            self._flush()
        self._stop_timer()

    def _restart(self) -> None:
        self._stop_timer()
        self._text = ""
        if self._n:
            self._n = 0
            self._show({"restart": True})

    def _flush(self) -> None:
        self._stop_timer()
        piece, self._text = self._text[:MAX_CHARS], self._text[MAX_CHARS:]
        self._n += 1
        self._shown_at = self._loop.time()
        self._show({"text": _whole(piece), "n": self._n})
        if self._text:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _whole(text: str) -> str:
    """A text that JSON can hold: two halves of a character are joined, a lone one is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_MAX_RAW_CHARS = 4_000  # of an answer that does not fit, in its event
_MAX_CUT_CHARS = 100_000  # of an answer that is cut off, in its event


class RecordedError(Struct):
    """A ModelError as a journal keeps it: its class by name, its message, and other plain fields."""

    failed: str
    message: str
    fields: dict[str, Any] = msgspec.field(name="known")

    @classmethod
    def from_error(cls, error: ModelError) -> RecordedError:
        """Record an error."""
        fields = {name: value for name, value in vars(error).items() if name != "message"}
        plain = {name: value for name, value in fields.items() if isinstance(value, str | int | float | None)}
        return cls(failed=error.code, message=error.message, fields=plain)

    @property
    def error(self) -> ModelError:
        """The error again, so that it can be caught by its class; a plain ModelError where that is gone."""
        kind = error_of_code(self.failed, ModelError) or ModelError
        error = kind.__new__(kind, self.message)
        vars(error).update(self.fields, message=self.message)
        return error


StepResult = RecordedError | ModelReply
"""How a call of a model ended: the result of its step, so that a resumed run gets the same again."""


def fault_events(reply: StepResult, shape: type[BaseModel] | None) -> list[ProgressEvent]:
    """The faults of a reply with its text, so that nothing that was paid for is lost."""
    events: list[ProgressEvent] = []
    if isinstance(reply, RecordedError):
        return events
    if shape is not None and not reply.tool_calls:
        try:
            read_answer(shape, reply)
        except StructureInvalid as error:
            raw = cut(error.raw, _MAX_RAW_CHARS)
            invalid = InvalidAnswer(shape=shape.__name__, error=error.message, raw=raw)
            events.append(ProgressEvent.from_payload(invalid))
    if reply.finish_reason == "length" and (shape is None or reply.tool_calls):
        calls = [
            {"tool": call.name, "arguments": cut(call.arguments, _MAX_CUT_CHARS)} for call in reply.tool_calls
        ]
        text = cut(reply.content, _MAX_CUT_CHARS)
        events.append(ProgressEvent.from_payload(CutOffReply(text=text, tool_calls=calls)))
    return events
