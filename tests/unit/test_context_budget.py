"""What fits into an agent's context, and the request that a run makes of it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshwright.context.memory import MemoryItem
from meshwright.context.plan import (
    DEFAULT_RULES,
    CompressRequest,
    ContextRequest,
    context_request,
    plan,
)
from meshwright.context.text import count_tokens
from meshwright.core.messages import Task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def memories(*texts: str) -> list[MemoryItem]:
    return [MemoryItem(memory_id=f"m{n}", scope="global", text=text) for n, text in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text, "task_id": "t"} for text in texts]


def task(**payload: Any) -> Task:
    return Task(
        task_id="t",
        capability="general-query",
        payload=payload,
        thread_id="t",
        deadline_at=NOW,
        created_at=NOW,
    )


def fitting(history: list[dict[str, Any]], recalled: list[MemoryItem], max_tokens: int) -> ContextRequest:
    return context_request(
        sender="a", receiver="b", task=task(), history=history, memories=recalled, max_tokens=max_tokens
    )


def test_the_least_relevant_memories_are_dropped_first() -> None:
    request = fitting([], memories("one two three", "four five six", "seven"), max_tokens=6)
    assert request.sender_memories == ["one two three", "four five six"]


def test_a_memory_larger_than_the_whole_budget_does_not_keep_the_others_out() -> None:
    assert fitting([], memories("word " * 50, "small"), max_tokens=10).sender_memories == ["small"]


def test_the_latest_messages_are_kept_in_their_order() -> None:
    chosen = fitting(messages("one", "two", "three", "four"), [], max_tokens=6).conversation_snippet
    assert chosen == [{"role": "user", "content": text} for text in ("two", "three", "four")]


def test_a_long_message_is_cut_short_rather_than_lost() -> None:
    (message,) = fitting(messages("word " * 100), [], max_tokens=80).conversation_snippet
    assert isinstance(message, dict) and message["content"].endswith("…")
    assert count_tokens(message["content"]) <= 10


def test_history_leaves_half_of_the_budget_to_memories() -> None:
    request = fitting(messages(*["word"] * 100), memories(*["memory"] * 100), max_tokens=20)
    assert (len(request.conversation_snippet), len(request.sender_memories)) == (10, 10)


def test_a_run_asks_with_what_it_has() -> None:
    request = context_request(
        sender="project-manager",
        receiver="architect-agent",
        project_id="mesh",
        task=task(text="Decide it."),
        history=messages("Earlier."),
        memories=memories("SQLite is preferred."),
    )
    known = {"constraints": ["Stay small."], "known_failures": ["It hung."], "sender_questions": ["Which?"]}
    request = request.model_copy(update=known)
    assert plan(request, DEFAULT_RULES).text.splitlines() == [
        *(
            "METADATA:",
            "sender: project-manager",
            "receiver: architect-agent",
            "project_id: mesh",
            "priority: 5",
        ),
        *("DOMAIN_CONTEXT:", "- Decide it."),
        *("CONSTRAINTS:", "- Stay small."),
        *("KNOWN_FAILURES:", "- It hung."),
        *("RELEVANT_MEMORIES:", "- SQLite is preferred."),
        *("CONVERSATION_CONTEXT:", "- user: Earlier."),
        *("OPEN_QUESTIONS:", "- Which?"),
    ]


def test_a_run_s_request_is_what_the_check_would_have_made_of_it() -> None:
    made = context_request(
        sender="a", receiver="b", task=task(text="x"), history=messages("y"), memories=memories("z")
    )
    checked = CompressRequest.model_validate_json(made.model_dump_json())
    assert checked.model_dump_json() == made.model_dump_json()


@pytest.mark.parametrize(
    ("payload", "summary"),
    [
        ({"text": " hello "}, "hello"),
        ({"n": 1}, '{"n":1}'),
        ({}, "{}"),
        ({"text": "x" * 20_000}, "x" * 15_999 + "…"),
    ],
    ids=["text", "other", "empty", "long"],
)
def test_a_task_is_summed_up_by_its_text_or_its_payload(payload: dict[str, Any], summary: str) -> None:
    assert context_request(sender="a", receiver="b", task=task(**payload)).task_summary == summary
