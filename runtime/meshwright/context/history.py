"""How much of a conversation a run gets."""

from __future__ import annotations

from collections.abc import Sequence

from meshwright.context.text import clip, count_tokens
from meshwright.models.port import ChatMessage
from meshwright.work.conversation import ThreadMessage

_MESSAGE_SHARE = 4  # one message takes at most a quarter of all


def chat_messages(said: Sequence[ThreadMessage], max_tokens: int) -> tuple[ChatMessage, ...]:
    """The latest messages that have at most so many tokens together, oldest first; a long one is cut short.

    The first is a user's, as providers want it.
    """
    chosen: list[ChatMessage] = []
    left, longest = max_tokens, max(1, max_tokens // _MESSAGE_SHARE)
    for message in reversed(said):
        content = clip(message.content, longest)
        left -= count_tokens(content)
        if left < 0:
            break
        if content.strip():
            chosen.append(ChatMessage(role=message.role, content=content))
    while chosen and chosen[-1].role != "user":
        chosen.pop()
    return tuple(reversed(chosen))
