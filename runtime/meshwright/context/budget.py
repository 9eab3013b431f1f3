"""What fits of memories and history into an agent's context: a budget of tokens, spent by rules alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshwright.context.memory import MemoryItem, within_budget
from meshwright.context.tokens import clip, count_tokens

MAX_CONTEXT_TOKENS = 4000  # of memories and history together, before the context-service has its say
HISTORY_SHARE = 2  # history takes at most half of the budget
MESSAGE_SHARE = 4  # and one message a quarter of that


@dataclass(frozen=True, slots=True)
class AgentContext:
    """The memories, most relevant first, and the messages, oldest first, that fit a budget."""

    memories: list[str]
    messages: list[dict[str, str]]


def build_agent_context(
    history: Sequence[Mapping[str, Any]],
    memories: Sequence[MemoryItem],
    *,
    max_tokens: int = MAX_CONTEXT_TOKENS,
) -> AgentContext:
    """Choose what fits: the latest messages in half of the budget, and memories in what that leaves.

    Messages are `{role, content}`, oldest first; a long one is cut short. Memories come in order of
    relevance, and the least relevant are dropped first.
    """
    messages = recent_messages(history, max_tokens // HISTORY_SHARE)
    left = max_tokens - sum(count_tokens(message["content"]) for message in messages)
    return AgentContext([item.text for item in within_budget(memories, left)], messages)


def recent_messages(history: Sequence[Mapping[str, Any]], max_tokens: int) -> list[dict[str, str]]:
    """The latest messages that have at most so many tokens together, oldest first."""
    chosen: list[dict[str, str]] = []
    left = max_tokens
    longest = max(1, max_tokens // MESSAGE_SHARE)
    for message in reversed(history):
        content = clip(str(message["content"]), longest)
        left -= count_tokens(content)
        if left < 0:
            break
        chosen.append({"role": str(message["role"]), "content": content})
    return chosen[::-1]
