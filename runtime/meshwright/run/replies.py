"""Replies that are no whole answer: how the model is asked again, and how parts are joined."""

from __future__ import annotations

from pydantic import BaseModel

from meshwright.core.errors import ModelError
from meshwright.models.errors import EmptyReply, ReplyCutOff
from meshwright.models.port import ChatMessage, ModelReply
from meshwright.run.prepared import PreparedPrompt

MAX_EMPTY = 2  # replies in a row that are asked for again
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
    """A text and its continuation. What that repeats is dropped: all of the text, or its last words."""
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
        return EmptyReply(
            f"{model} gave neither text nor a tool call, {MAX_EMPTY + 1} times",
            remedy="Raise max_tokens in its prompt, since reasoning counts, or name another model",
        )
    what = "in a tool call, which was not run" if reply.tool_calls else "before its answer was whole"
    return ReplyCutOff(
        f"{model} reached max_tokens ({room}) {what}, also when asked again",
        text=text,
        remedy="Raise max_tokens in its prompt; what it wrote is in the task's reply.cut_off events",
    )
