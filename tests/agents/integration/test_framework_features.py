"""Handoffs, guardrails, sessions, interrupts, MCP servers and streams go on after a kill."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_provider import tool_call
from tests.support.frameworks.shop_mesh import COST, HERE, FrameworksMesh, TextProvider

TASKS = {
    "desk": "desk: Sell me a lamp, please. hold=charge:after.",
    "review": "review: The sky is blue.",
    "library": "library: Lend it.",
    "radio": "radio: Speak of the lamp. hold=charge:after.",
    "ticker": "ticker: Report on the lamp. hold=charge:after.",
}
HELD = ("desk", "library", "radio", "ticker")
"""Those that stay in a tool behind its effect."""
ANSWERS: Mapping[str, Any] = {
    "desk": {"approve": False, "result": "charged 500"},
    "review": "Publish it.",
    "library": {"approve": False, "result": "lent Emma"},
    "radio": {"approve": False, "result": "charged 5"},
    "ticker": {"approve": False, "result": "charged 7"},
}
RESULTS = {
    "desk": "It is sold. It is sold.",
    "review": "The facts are right.; The style is good.; Publish it.",
    "library": "Emma is lent.",
    "radio": "It costs 5 cents.",
    "ticker": "It costs 7 cents.",
}
SCRIPT: Mapping[tuple[str, int], dict[str, Any]] = {
    ("You guard.", 0): {"content": "polite"},
    ("You greet.", 0): tool_call("transfer_to_seller", "{}", "call_handoff"),
    ("You sell.", 1): tool_call("charge", json.dumps({"cents": 500}), "call_charge"),
    ("You sell.", 2): {"content": "It is sold."},
    ("You read for style.", 0): {"content": "The style is good."},
    ("You read for facts.", 0): {"content": "The facts are right."},
    ("You lend.", 0): tool_call("count", "{}", "call_count"),
    ("You lend.", 1): tool_call("lend", json.dumps({"title": "Emma"}), "call_lend"),
    ("You lend.", 2): tool_call("remind", json.dumps({"days": 14}), "call_remind"),
    ("You lend.", 3): {"content": "Emma is lent."},
    ("You speak.", 0): tool_call("charge", json.dumps({"cents": 5}), "call_speak"),
    ("You speak.", 1): {"content": "It costs 5 cents."},
    ("You report.", 0): tool_call("charge", json.dumps({"cents": 7}), "call_report"),
    ("You report.", 1): {"content": "It costs 7 cents."},
}
OWNERS = {
    "desk": ("You guard.", "You greet.", "You sell."),
    "review": ("You read",),
    "library": ("You lend.",),
    "radio": ("You speak.",),
    "ticker": ("You report.",),
}


async def test_handoffs_guardrails_interrupts_mcp_servers_and_streams_go_on_after_a_kill(
    tmp_path: Path,
) -> None:
    shutil.copy(HERE / "library_server.py", tmp_path)
    async with (
        TextProvider(SCRIPT) as provider,
        FrameworksMesh("sqlite", tmp_path, None, provider, HERE / "features.py") as mesh,
    ):
        client = mesh.running.client
        tasks = {agent: (await client.submit(agent, text)).task_id for agent, text in TASKS.items()}
        while not await are_held(mesh):
            await asyncio.sleep(0.02)
        mesh.release()
        await mesh.kill()
        client, asked = mesh.running.client, set[str]()
        ends = asyncio.gather(*(client.outcome(task_id) for task_id in tasks.values()))
        while not ends.done():
            for question in await client.inbox():
                assert question.agent_id is not None
                asked.add(question.wait_id)
                await client.answer(question, ANSWERS[question.agent_id])
            await asyncio.sleep(0.02)
        outcomes = dict(zip(tasks, ends.result(), strict=True))
        calls = {agent: await mesh.calls(task_id) for agent, task_id in tasks.items()}
    for agent, outcome in outcomes.items():
        assert outcome.text == RESULTS[agent], outcome.error
        of_agent = {key: 1 for key in SCRIPT if key[0].startswith(OWNERS[agent])}
        if agent == "desk":
            of_agent["You sell.", 2] = 2  # in the second run of the session
        assert provider.asked_of(TASKS[agent]) == of_agent, "a call that ended is repeated"
        assert len(calls[agent]) == sum(of_agent.values())
        assert outcome.cost_usd == sum(Decimal(call["cost_usd"]) for call in calls[agent])
    assert outcomes["review"].cost_usd == 2 * COST
    assert len(asked) == len(TASKS)
    assert mesh.effects(TASKS["desk"]) == {"charge 500": 1, "held": 1}
    for agent, cents in (("radio", 5), ("ticker", 7)):
        assert mesh.effects(TASKS[agent]) == {f"charge {cents}": 1, "held": 1}
    assert mesh.effects(TASKS["library"]) == {"count": 1, "lend Emma": 1, "remind 14": 1, "held": 1}


async def are_held(mesh: FrameworksMesh) -> bool:
    """Whether all tools have had their effect, and the graph asks its question."""
    for failed in await mesh.running.client.tasks(status="failed"):
        pytest.fail(str(await mesh.running.client.outcome(failed.task_id)))
    questions = await mesh.running.client.inbox()
    held = [mesh.effects(TASKS[agent])["held"] for agent in HELD]
    return held == [1] * len(HELD) and [question.agent_id for question in questions] == ["review"]
