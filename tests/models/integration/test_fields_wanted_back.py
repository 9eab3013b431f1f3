"""Fields that a provider wants back go back as they came: streamed and whole, through a wait, by a client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from meshwright import Agent, Capability, Run, tool
from tests.support.http_mesh import http_mesh

SIGNATURE = {"google": {"thought_signature": "c2lnbmVk"}}
DETAILS: list[dict[str, Any]] = [
    {"type": "reasoning.text", "index": 0, "text": "I should look it up.", "signature": "s1"},
    {"type": "reasoning.encrypted", "index": 1, "data": "b3BhcXVl"},
]
EXTRA = {"reasoning_content": "I should look it up.", "reasoning_details": DETAILS}
"""As Gemini's OpenAI address, DeepSeek's thinking mode and OpenRouter send them, by their public threads."""


def called() -> dict[str, Any]:
    function = {"name": "look", "arguments": "{}"}
    return {"id": "c1", "type": "function", "function": function, "extra_content": SIGNATURE}


def chunks() -> list[dict[str, Any]]:
    """The same reply in pieces."""
    deltas: list[dict[str, Any]] = [
        {"reasoning_content": "I should ", "reasoning_details": [{**DETAILS[0], "text": "I should "}]},
        {"reasoning_content": "look it up.", "reasoning_details": [{**DETAILS[0], "text": "look it up."}]},
        {"reasoning_details": [DETAILS[1]]},
        {"tool_calls": [{"index": 0, **called()}]},
    ]
    ends = [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]
    choices = [[{"index": 0, "delta": delta}] for delta in deltas]
    return [{"model": "m", "choices": some} for some in (*choices, ends)]


@asynccontextmanager
async def provider(requests: list[dict[str, Any]], refusals: int = 0) -> AsyncIterator[str]:
    """The address of a server whose first reply calls a tool, and which refuses the next few requests."""

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        requests.append(body)
        usage = {"prompt_tokens": 9, "completion_tokens": 9}
        is_first = not any(message["role"] == "tool" for message in body["messages"])
        if not is_first and len(requests) <= 1 + refusals:
            return web.json_response({"error": {"message": "not today"}}, status=400)
        message: dict[str, Any] = {"role": "assistant", "content": "Found it."}
        if is_first:
            message = {"role": "assistant", "content": None, "tool_calls": [called()], **EXTRA}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if is_first else "stop"}
        if not body.get("stream"):
            return web.json_response({"model": "m", "choices": [choice], "usage": usage})
        last = {"index": 0, "delta": message, "finish_reason": "stop"}
        pieces = chunks() if is_first else [{"model": "m", "choices": [last]}]
        frames = [f"data: {json.dumps(one)}\n\n" for one in (*pieces, {"choices": [], "usage": usage})]
        return web.Response(text="".join([*frames, "data: [DONE]\n\n"]), content_type="text/event-stream")

    application = web.Application()
    application.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Looker(Agent):
    """Looks something up, and waits between two steps."""

    agent_id = "looker"
    capabilities = (Capability("looking"),)
    prompt_text = "Look."
    remembers = False

    @tool(effect="read", idempotent=True)
    async def look(self) -> str:
        """Look it up."""
        await Run.current().sleep(seconds=0.01)
        return "here"


class Framework(Looker):
    """The same by OpenAI's client."""

    agent_id = "framework"

    async def run(self, run: Run) -> str:
        client, (look,) = run.openai(), run.functions("look")
        messages: list[Any] = [{"role": "user", "content": "Look."}]
        function: Any = {"name": "look", "parameters": {"type": "object", "properties": {}}}
        tools: Any = [{"type": "function", "function": function}]
        first = await client.chat.completions.create(model="default", messages=messages, tools=tools)
        reply = first.choices[0].message
        result = {"role": "tool", "tool_call_id": "c1", "content": await look()}
        messages += [reply.model_dump(exclude_none=True), result]
        last = await client.chat.completions.create(model="default", messages=messages, tools=tools)
        return str(last.choices[0].message.content)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("agent", [Looker, Framework])
async def test_fields_go_back_as_they_came(
    agent: type[Agent], stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []
    async with provider(requests) as url:
        monkeypatch.setenv("LITELLM_BASE_URL", url)
        settings: dict[str, Any] = {"model": None, "models": {"adapter": "http", "stream": stream}}
        async with http_mesh(tmp_path, agent, **settings) as api:
            outcome = await api.client.ask(agent.agent_id, "Look.")
            assert outcome.text == "Found it.", outcome.error
    [message] = [message for message in requests[-1]["messages"] if message["role"] == "assistant"]
    assert message["tool_calls"][0]["extra_content"] == SIGNATURE
    assert {name: message.get(name) for name in EXTRA} == EXTRA


async def test_fields_go_back_in_a_retry_in_a_fork_and_from_a_client_of_v1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[dict[str, Any]] = []
    async with provider(requests, refusals=1) as url:
        monkeypatch.setenv("LITELLM_BASE_URL", url)
        settings: dict[str, Any] = {"model": None, "models": {"adapter": "http"}}
        async with http_mesh(tmp_path, Looker, **settings) as api:
            failed = await api.client.ask("looker", "Look.")
            assert failed.status == "failed" and len(requests) == 2
            status, _ = await api.call("POST", f"/tasks/{failed.task_id}/retry", json={})
            assert status == 202
            assert (await api.client.outcome(failed.task_id)).text == "Found it."
            steps = (await api.get(f"/tasks/{failed.task_id}/steps"))["items"]
            last = max(step["number"] for step in steps if step["kind"] == "tool")
            status, fork = await api.call("POST", f"/tasks/{failed.task_id}/fork", json={"step": str(last)})
            assert status == 202, fork
            assert (await api.client.outcome(fork["task_id"])).text == "Found it."
            function = {"name": "look", "parameters": {"type": "object", "properties": {}}}
            tools = [{"type": "function", "function": function}]
            body: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Look."}]}
            _, reply = await api.call("POST", "/v1/chat/completions", json={**body, "tools": tools})
            result = {"role": "tool", "tool_call_id": "c1", "content": "here"}
            body["messages"] += [reply["choices"][0]["message"], result]
            await api.call("POST", "/v1/chat/completions", json={**body, "tools": tools})
    sent = [message for body in requests for message in body["messages"] if message["role"] == "assistant"]
    assert len(requests) == 6 and len(sent) == 4
    for message in sent:
        assert message["tool_calls"][0]["extra_content"] == SIGNATURE
        assert {name: message.get(name) for name in EXTRA} == EXTRA
