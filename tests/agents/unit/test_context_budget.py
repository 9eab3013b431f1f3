"""Limits of an agent's context, and the request of a run."""

from typing import Literal

from meshwright.agents.context.memory import MemoryItem
from meshwright.agents.context.plan import ContextRequest, context_request, plan
from meshwright.agents.context.rules import DEFAULT_RULES
from meshwright.agents.context.service import chat_messages
from meshwright.agents.context.text import count_tokens
from meshwright.engine.work.conversation import ThreadMessage


def memories(*texts: str) -> list[MemoryItem]:
    return [MemoryItem(memory_id=f"m{n}", scope="global", text=text) for n, text in enumerate(texts)]


def said(*texts: str) -> list[ThreadMessage]:
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    return [ThreadMessage(role=roles[n % 2], content=text) for n, text in enumerate(texts)]


def fitting(recalled: list[MemoryItem], max_tokens: int) -> ContextRequest:
    return context_request(sender="a", receiver="b", memories=recalled, max_tokens=max_tokens)


def test_the_least_relevant_memories_are_dropped_first() -> None:
    request = fitting(memories("one two three", "four five six", "seven"), max_tokens=6)
    assert request.sender_memories == ["[m0] one two three", "[m1] four five six"]


def test_a_memory_larger_than_the_whole_budget_does_not_keep_the_others_out() -> None:
    assert fitting(memories("word " * 50, "small"), max_tokens=10).sender_memories == ["[m1] small"]


def test_the_latest_messages_are_kept_in_their_order() -> None:
    chosen = chat_messages(said("one", "two", "three", "four"), max_tokens=3)
    assert [(message.role, message.content) for message in chosen] == [
        ("user", "three"),
        ("assistant", "four"),
    ]


def test_a_long_message_is_cut_short_rather_than_lost() -> None:
    (message,) = chat_messages(said("word " * 100), max_tokens=40)
    assert message.content.endswith("…")
    assert count_tokens(message.content) <= 10


def test_a_conversation_begins_with_a_user() -> None:
    assert chat_messages(said(*["word"] * 9), max_tokens=6)[0].role == "user"
    assert chat_messages(said("", "only this")[1:], max_tokens=6) == ()


def test_a_run_asks_for_what_it_recalled_alone() -> None:
    request = context_request(
        sender="project-manager", receiver="architect-agent", memories=memories("SQLite is preferred.")
    )
    known = {"constraints": ["Stay small."], "known_failures": ["It hung."], "sender_questions": ["Which?"]}
    request = request.model_copy(update=known)
    assert plan(request, DEFAULT_RULES).text.splitlines() == [
        *("CONSTRAINTS:", "- Stay small."),
        *("KNOWN_FAILURES:", "- It hung."),
        *("RELEVANT_MEMORIES:", "- [m0] SQLite is preferred."),
        *("OPEN_QUESTIONS:", "- Which?"),
    ]
