"""A model that asks for the calls of tools that a program says, and checks the results that it reads."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from meshwright.core.messages import Usage
from meshwright.models.errors import ModelUnavailable, RateLimited
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall
from tests.support.walker.asks import SAY, ModelCall
from tests.support.walker.programs import Op, Request
from tests.support.walker.world import JOB, PRICE, World, job_in

_LIES = (10, -5, 10**9, 10**30)


class WorldModel:
    """The model of a mesh in this process. It can be away."""

    name = "world"

    def __init__(self, world: World) -> None:
        self._world = world

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        world, asked = self._world, request.messages[-1].content
        world.begun_calls += 1
        call = None
        if asked.startswith(SAY):
            call = world.asks.send_call(request.context.task_id or "", asked)
        await world.gate.point("before model", effect=True)
        if world.provider == "down":
            raise ModelUnavailable("the provider is down")
        if world.provider == "limited":
            raise RateLimited("the provider asks to wait", retry_after_seconds=30)
        world.bill += PRICE
        world.calls += 1
        world.cut_calls += 1
        calls, text = await self._answer(request, call, on_delta)
        await world.gate.point("behind model", effect=True)
        world.cut_calls -= 1
        return ModelReply(
            content=text,
            tool_calls=tuple(calls),
            finish_reason="tool_calls" if calls else "stop",
            model=self.name,
            cost_usd=PRICE,
            cost_source="reported",
            usage=_usage(world),
        )

    async def _answer(
        self, request: ModelRequest, call: ModelCall | None, on_delta: OnDelta | None
    ) -> tuple[list[ToolCall], str]:
        """The calls of tools, or the text, after a while; code of frameworks gets it in pieces."""
        world = self._world
        chance = random.Random(f"{world.seed} model {world.calls}")
        if call is None:
            await asyncio.sleep(chance.choice((0, 0, 1)))
            return answer_of(world, request.messages, has_tools=bool(request.tools))
        world.asks.begin_call(call)
        text, seconds = f"reply {world.calls} to {call.text}", chance.choice((0, 0, 0.5, 1, 1, 2, 3))
        try:
            words = text.split(" ")
            for at, word in enumerate(words):
                await asyncio.sleep(seconds / len(words))
                if on_delta is not None:
                    on_delta(word if not at else f" {word}")
        finally:
            call.ended_at = time.time()
        return [], text

    async def close(self) -> None:
        """Nothing is open."""


def _usage(world: World) -> Usage:
    if not world.lies:
        return Usage(prompt_tokens=10, completion_tokens=5)
    chance = random.Random(f"{world.seed} lie {world.calls}")
    return Usage(prompt_tokens=chance.choice(_LIES), completion_tokens=chance.choice(_LIES))


def answer_of(
    world: World, messages: Sequence[ChatMessage], *, has_tools: bool
) -> tuple[list[ToolCall], str]:
    """The calls of tools that the program asks for at this place of a conversation, or its last words."""
    asked = [at for at, message in enumerate(messages) if _names_job(message)]
    job = job_in(messages[asked[-1]].content) if asked else ""
    own = messages[asked[-1] + 1 :] if asked else ()
    _check(world, own)
    place = sum(bool(message.tool_calls) for message in own if message.role == "assistant")
    ops = world.program[job].ops if job in world.program else ()
    rounds = next((op.rounds for op in ops if op.kind == "converse"), ())
    if has_tools and place < len(rounds):
        return [_call(world, op, f"c{place}_{number}") for number, op in enumerate(rounds[place])], ""
    results = [message.content for message in own if message.role == "tool"]
    return [], json.dumps({"job": job, "results": results})


def _names_job(message: ChatMessage) -> bool:
    return message.role == "user" and JOB.search(message.content) is not None


def _call(world: World, op: Op, call_id: str) -> ToolCall:
    arguments: dict[str, Any]
    if op.request is None:
        name, arguments = "delegate", {"agent_id": world.program[op.job].agent, "text": f"job {op.job}"}
    else:
        name, arguments = op.request.tool, {"account": op.request.account, "amount": op.request.amount}
    return ToolCall(id=call_id, name=name, arguments=json.dumps(arguments))


def _check(world: World, messages: Sequence[ChatMessage]) -> None:
    """Look whether each result of a tool is that of its call."""
    calls = {call.id: call for message in messages for call in message.tool_calls}
    for message in messages:
        call = calls.get(message.tool_call_id or "")
        if message.role != "tool" or call is None:
            continue
        arguments = json.loads(call.arguments)
        if call.name == "delegate":
            _check_child(world, job_in(arguments["text"]), message.content)
        else:
            world.read_result(Request(call.name, **arguments), message.content)


def _check_child(world: World, job: str, text: str) -> None:
    try:
        result = json.loads(text)
    except ValueError:
        return  # the words of a failure
    if not (isinstance(result, dict) and "error" in result):
        world.read_child(job, result)
