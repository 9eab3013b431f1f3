"""A reply whose server does not say why it ended is no failure, and is not called `stop`."""

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest

from meshwright import Agent, Capability, tool
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.models.server import HttpModel
from meshwright.testing import ScriptedModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.http_mesh import http_mesh
from tests.support.model_api import HELLO, service
from tests.support.model_requests import request

HALF = "1. stop the primary  2. promote the replica  3. then be sure to"
CALL: Any = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"place": "here"}'}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 9}


def streamed(message: dict[str, Any]) -> Fault:
    """A stream that a gateway ends politely."""
    calls = [{"index": number, **call} for number, call in enumerate(message.get("tool_calls") or ())]
    delta = {**message, **({"tool_calls": calls} if calls else {})}
    chunk = {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": USAGE}
    return Fault(kind="raw", pieces=[b"data: %s\n\n" % json.dumps(chunk).encode(), b"data: [DONE]\n\n"])


def whole(message: dict[str, Any]) -> Fault:
    choice = {"index": 0, "message": message, "finish_reason": None}
    return Fault(kind="body", body={"model": "m", "choices": [choice], "usage": USAGE})


@pytest.mark.parametrize("made", [streamed, whole])
@pytest.mark.parametrize("message", [{"content": HALF}, {"content": None, "tool_calls": [CALL]}])
async def test_a_reply_without_a_reason_has_none_of_ours(
    fake: FakeProvider, made: Any, message: dict[str, Any]
) -> None:
    fake.faults.append(made(message))
    model = HttpModel(fake.url)
    reply = await model.complete(request(), [].append if made is streamed else None)
    await model.close()
    assert (reply.content, reply.finish_reason) == (message["content"] or "", "unknown")
    assert [call.name for call in reply.tool_calls] == ["look" for _ in message.get("tool_calls", ())]


class Lookout(Agent):
    """Looks, and says what it saw."""

    agent_id = "lookout"
    capabilities = (Capability("looking"),)
    prompt_text = "Look."

    @tool(idempotent=True)
    async def look(self, place: str) -> str:
        """Look at a place."""
        return f"nothing at {place}"


async def test_a_task_ends_well_and_says_that_its_end_is_unknown(fake: FakeProvider, tmp_path: Path) -> None:
    fake.faults.extend([streamed({"content": None, "tool_calls": [CALL]}), streamed({"content": HALF})])
    async with http_mesh(tmp_path, Lookout, model="auto", models={"base_url": fake.url}) as api:
        task_id = await api.submit(agent_id="lookout", payload={"text": "Look."})
        outcome = await api.mesh.get(Tasks).outcome(task_id)
        events = (await api.get("/events", task_id=task_id, event_type="model.called"))["items"]
    assert (outcome.success, outcome.text, outcome.finish_reason) == (True, HALF, "unknown")
    assert fake.calls[1].body["messages"][-1]["content"] == "nothing at here"
    assert {event["payload"]["finish_reason"] for event in events} == {"unknown"}


async def test_clients_are_told_no_reason_either(tmp_path: Path) -> None:
    replies = [ModelReply(model="m", content=HALF, finish_reason="unknown") for _ in range(3)]
    async with service(tmp_path, answering=ScriptedModel(*replies)) as there:
        async with there.client() as client:
            chat = await client.chat.completions.create(model="default", messages=HELLO)
            stream = await client.chat.completions.create(model="default", messages=HELLO, stream=True)
            reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices]
        async with anthropic.AsyncAnthropic(base_url=there.url, api_key="none") as claude:
            message = await claude.messages.create(model="default", max_tokens=9, messages=HELLO)
    assert chat.choices[0].message.content == HALF
    assert {chat.choices[0].finish_reason, *reasons, message.stop_reason} == {None}
