"""A thread longer than what a run reads: the first request stays, and a line says what is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.context.service import thread_history
from meshwright.agents.context.text import count_tokens
from meshwright.engine.work.conversation import Recent, ThreadMessage
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelRequest
from meshwright.testing import ScriptedModel, mesh_for
from meshwright.testing.mesh import MeshUnderTest

RULE = "RULE-88: never mail customers on Sundays."
FILLER = "what of the parcel and the van and the depot? " * 12
TASKS = 40


class Talker(Agent):
    agent_id = "talker"
    capabilities = (Capability("talking"),)
    prompt_text = "You talk."
    remembers = False


def told(request: ModelRequest) -> list[tuple[str, str]]:
    """The messages of a request behind the system's."""
    return [(message.role, message.content) for message in request.messages[1:]]


async def talk(mesh: MeshUnderTest, *texts: str) -> None:
    for text in texts:
        await mesh.ask("talker", text, thread_id="talk")


def left_out(request: ModelRequest) -> int:
    """The number of the line, which is the only one."""
    [count] = re.findall(
        r"\[([\d,]+) earlier messages of this conversation are left out here\.\]", str(told(request))
    )
    return int(count.replace(",", ""))


async def test_the_first_request_of_a_long_thread_is_kept_and_the_gap_is_told() -> None:
    model = ScriptedModel(*(f"Answer {n}." for n in range(TASKS)))
    async with mesh_for(Talker, model=model) as mesh:
        await talk(mesh, RULE, *(f"question {n}: {FILLER}" for n in range(1, TASKS)))
        events = mesh.events("context.left_out").payloads
    last = told(model.requests[-1])
    assert last[0] == ("user", RULE)
    assert last[1][0] == "assistant" and left_out(model.requests[-1]) > 0
    assert [role for role, _ in last] == ["user", "assistant"] * (len(last) // 2) + ["user"]
    shown = len(last) - 2  # without the line and the request itself
    assert shown + left_out(model.requests[-1]) == 2 * (TASKS - 1)
    assert last[-2] == ("assistant", f"Answer {TASKS - 2}.")
    assert events[-1] == {**events[-1], "messages": left_out(model.requests[-1])}
    assert len(events) < TASKS, "a thread that fits says nothing"


@pytest.mark.parametrize("count", [60, 300])
async def test_the_cost_of_a_run_does_not_grow_with_its_thread(count: int) -> None:
    model = ScriptedModel(*(["Fine."] * count))
    async with mesh_for(Talker, model=model) as mesh:
        await talk(mesh, RULE, *(f"question {n}: {FILLER}" for n in range(1, count)))
    request = model.requests[-1]
    assert sum(count_tokens(message.content) for message in request.messages[:-1]) < 4_100
    assert told(request)[0] == ("user", RULE)
    assert left_out(request) + len(told(request)) - 2 == 2 * (count - 1)


async def test_one_huge_message_does_not_push_the_others_out() -> None:
    model = ScriptedModel("Noted.", "Fine.", "x" * 40_000, "Done.")
    async with mesh_for(Talker, model=model) as mesh:
        await talk(mesh, RULE, "The van is red.", f"Copy this: {'y' * 60_000}", "Go on.")
    contents = [content for _, content in told(model.requests[-1])]
    assert RULE in contents and "The van is red." in contents
    assert max(map(count_tokens, contents)) <= 1_001


async def test_a_failed_first_request_is_not_kept() -> None:
    replies: list[Any] = [ModelRefused("no"), *(["Fine."] * TASKS)]
    model = ScriptedModel(*replies)
    async with mesh_for(Talker, model=model) as mesh:
        await talk(mesh, "A secret.", RULE, *(f"question {n}: {FILLER}" for n in range(1, TASKS)))
    assert told(model.requests[-1])[0] == ("user", RULE)
    assert "secret" not in str(told(model.requests[-1]))


def said(count: int, words: str = "word " * 9) -> tuple[ThreadMessage, ...]:
    return tuple(
        ThreadMessage(role="assistant" if n % 2 else "user", content=f"{n} {words}") for n in range(count)
    )


def test_a_thread_whose_first_request_is_unknown_says_what_is_left_out() -> None:
    history = thread_history(Recent(messages=said(8), total=20), 200)
    assert history.left_out == 20 - len(history.messages)
    first = history.messages[0]
    assert first.role == "user" and first.content.startswith(f"[{history.left_out} earlier messages")
    none = thread_history(Recent(messages=said(2)[1:], total=2), 200)
    assert [message.content for message in none.messages] == [
        "[2 earlier messages of this conversation are left out here.]"
    ]


def test_a_thread_that_fits_is_read_as_it_is() -> None:
    messages = (
        *said(2),
        ThreadMessage(role="user", content="So?"),
        ThreadMessage(role="assistant", content=""),
    )
    history = thread_history(Recent(messages=messages, total=4, first=messages[0]), 200)
    assert (len(history.messages), history.left_out) == (3, 0)


def test_a_long_first_request_takes_a_quarter() -> None:
    first = ThreadMessage(role="user", content="word " * 900)
    history = thread_history(Recent(messages=said(30), total=32, first=first), 400)
    assert count_tokens(history.messages[0].content) <= 100
    assert sum(count_tokens(message.content) for message in history.messages) <= 400
    assert history.messages[-1].content.startswith("29 ")
