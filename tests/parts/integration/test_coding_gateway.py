"""The gateway of a run: whom it answers, with which key, and for how long."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest

from meshwright import Agent, Capability, Run, ToolContext, tool
from meshwright.core.errors import Unauthenticated
from meshwright.mesh.identity.auth import Authenticators, Credentials
from meshwright.parts.coding.gateway import Gateway
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for

QUESTION = {"model": "gpt-x", "messages": [{"role": "user", "content": "How?"}]}
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/mcp")


class Doors:
    """The gateways of runs that wait until they may end."""

    def __init__(self) -> None:
        self.open: dict[str, Gateway] = {}
        self.changed = asyncio.Condition()
        self.may_end = asyncio.Event()

    async def of(self, task_id: str) -> Gateway:
        async with self.changed:
            await self.changed.wait_for(lambda: task_id in self.open)
        return self.open[task_id]


@pytest.fixture
def doors() -> Doors:
    return Doors()


def opener(doors: Doors) -> type[Agent]:
    class Opener(Agent):
        """Opens a gateway for its run."""

        agent_id = "opener"
        capabilities = (Capability("opening"),)
        prompt_text = "You answer."

        @tool(idempotent=True, effect="read")
        async def price(self, item: str, context: ToolContext) -> str:
            """The price of an item."""
            return f"{item} is 7"

        async def run(self, run: Run) -> str:
            gateway = Gateway(run)
            await gateway.serve(socket.create_server(("127.0.0.1", 0)))
            try:
                async with doors.changed:
                    doors.open[run.task.task_id] = gateway
                    doors.changed.notify_all()
                with run.program():
                    await doors.may_end.wait()
            finally:
                await gateway.close()
            return "closed"

    return Opener


async def asked(gateway: Gateway, path: str, body: Any, key: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        auth_headers = {"authorization": f"Bearer {key}", **headers}
        async with session.post(gateway.address + path, json=body, headers=auth_headers) as response:
            return response.status, await response.json(content_type=None)


async def begun(mesh: MeshUnderTest, doors: Doors) -> tuple[str, Gateway]:
    receipt = await mesh.client.submit("opener", "Open.")
    return receipt.task_id, await doors.of(receipt.task_id)


async def test_calls_of_models_and_tools_are_steps_of_the_run(doors: Doors) -> None:
    async with mesh_for(opener(doors), model=ScriptedModel("So.")) as mesh:
        task_id, gateway = await begun(mesh, doors)
        status, reply = await asked(gateway, "/v1/chat/completions", QUESTION, gateway.token)
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "So.")
        _, counted = await asked(gateway, "/v1/messages/count_tokens", QUESTION, gateway.token)
        assert counted["input_tokens"] > 0
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        _, listed = await asked(gateway, "/mcp", message, gateway.token)
        assert "price" in [one["name"] for one in listed["result"]["tools"]]
        call = {"name": "price", "arguments": {"item": "tea"}}
        message |= {"method": "tools/call", "params": call}
        _, called = await asked(gateway, "/mcp", message, gateway.token)
        assert called["result"] == {"content": [{"type": "text", "text": "tea is 7"}], "isError": False}
        doors.may_end.set()
        outcome = await mesh.client.outcome(task_id)
        assert outcome.result["text"] == "closed"
        names = mesh.events(task_id=task_id).names
        assert names.count("model.called") == 1
        assert names.count("price") == 1


@pytest.mark.parametrize("path", PATHS)
async def test_another_key_and_one_after_the_end_are_refused(doors: Doors, path: str) -> None:
    async with mesh_for(opener(doors)) as mesh:
        task_id, gateway = await begun(mesh, doors)
        _, other = await begun(mesh, doors)
        for key in (other.token, "", "guess", "mesh-run-"):
            status, document = await asked(gateway, path, QUESTION, key)
            assert status == 401, (key, document)
            assert "not that of a run that is under way" in json.dumps(document)
        with pytest.raises(Unauthenticated, match="for that run alone"):
            await mesh.mesh.get(Authenticators).authenticate(Credentials(token=gateway.token))
        doors.may_end.set()
        await mesh.client.outcome(task_id)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(QUESTION).encode()}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [
            (b"authorization", f"Bearer {gateway.token}".encode()),
            (b"host", gateway.address[7:].encode()),
        ]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        await gateway.answer(scope, receive, send)
        assert sent[0]["status"] == 401
        with pytest.raises(aiohttp.ClientError):
            await asked(gateway, path, QUESTION, gateway.token)


async def test_a_malformed_request_is_answered_as_one(doors: Doors) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    half = "\ud83d"  # of a pair of UTF-16
    async with mesh_for(opener(doors)) as mesh:
        _, gateway = await begun(mesh, doors)
        for path, body, expected in (
            ("/mcp", {**call, "params": {"name": {"price": 1}}}, 200),
            ("/mcp", {**call, "params": {"name": "price", "arguments": {"item": half}}}, 400),
            ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": half}]}, 400),
        ):
            status, document = await asked(gateway, path, body, gateway.token)
            assert (status, "error" in document) == (expected, True), document
        doors.may_end.set()


async def test_it_is_no_proxy_and_names_who_was_wanted(doors: Doors) -> None:
    async with mesh_for(opener(doors)) as mesh:
        _, gateway = await begun(mesh, doors)
        status, document = await asked(
            gateway, "/v1/chat/completions", QUESTION, gateway.token, host="example.org"
        )
        assert (status, gateway.refused) == (404, ["example.org: a run may call its gateway alone"])
        assert "is no proxy" in json.dumps(document)
        status, document = await asked(gateway, "/elsewhere", QUESTION, gateway.token)
        assert (status, "has no POST /elsewhere" in json.dumps(document)) == (404, True)
        doors.may_end.set()


async def test_a_program_of_gemini_is_told_that_its_api_is_not_there(doors: Doors) -> None:
    async with mesh_for(opener(doors)) as mesh:
        _, gateway = await begun(mesh, doors)
        for key, status, words in ((gateway.token, 404, "has no API of Gemini"), ("guess", 401, "This key")):
            async with aiohttp.ClientSession(headers={"x-goog-api-key": key}) as session:
                path = f"{gateway.address}/v1beta/models/gemini-3:generateContent"
                async with session.post(path, json={"contents": []}) as response:
                    assert (response.status, words in await response.text()) == (status, True)
        doors.may_end.set()


CHOICES = {
    **{"tags": ["expensive"], "metadata": {"tags": ["expensive"]}, "service_tier": "priority"},
    **{"web_search_options": {}, "models": ["big"], "provider": {"order": ["big"]}, "route": "fallback"},
    **{"user_config": {"model_list": []}, "speed": "fast", "store": True, "anthropic": {"speed": "fast"}},
}
"""Fields by which some provider or proxy chooses what answers, where, or at which price."""
HEADERS = {
    **{"x-litellm-tags": "expensive", "x-litellm-model-id": "big", "x-litellm-timeout": "1"},
    **{
        "x-litellm-customer-id": "other",
        "x-mesh-tenant": "other",
        "x-litellm-api-base": "http://127.0.0.1:1",
    },
}
ASKED = {
    "/v1/chat/completions": QUESTION | {"top_p": 0.5, "reasoning_effort": "low"},
    "/v1/responses": {"model": "gpt-x", "input": "How?", "top_p": 0.5, "reasoning": {"effort": "low"}},
    "/v1/messages": QUESTION | {"max_tokens": 9, "top_p": 0.5, "thinking": {"type": "adaptive"}},
}


@pytest.mark.parametrize("path", ASKED)
async def test_a_program_chooses_no_deployment_in_any_words(doors: Doors, path: str) -> None:
    model = ScriptedModel("So.")
    async with mesh_for(opener(doors), model=model) as mesh:
        task_id, gateway = await begun(mesh, doors)
        status, document = await asked(gateway, path, ASKED[path] | CHOICES, gateway.token, **HEADERS)
        assert status == 200, document
        doors.may_end.set()
        assert (await mesh.client.outcome(task_id)).success
        [called] = mesh.events("model.called").payloads
    [request] = model.requests
    assert (request.model, request.tags, request.context.tenant_id) == ("default", ("default",), "default")
    answers = {"top_p", "reasoning_effort", "anthropic"}  # how the model answers, which is the program's
    assert set(request.params) <= answers and request.params["top_p"] == 0.5
    assert set(request.params.get("anthropic", ())) <= {"thinking"}
    assert {"service_tier"} <= set(called["passed_over"])


ADDRESS, CONTENTS = "https://example.org/?secret", "data:image/png;base64,iVBORw0KGgo="


def with_picture(path: str, url: str) -> dict[str, Any]:
    """A request of an API with a picture."""
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
    if path == "/v1/responses":
        part = {"type": "input_image", "image_url": url}
        return ASKED[path] | {"input": [{"role": "user", "content": [part]}]}
    if path == "/v1/messages":
        media, _, data = url.removeprefix("data:").partition(";base64,")
        source = (
            {"type": "base64", "media_type": media, "data": data} if data else {"type": "url", "url": url}
        )
        part = {"type": "image", "source": source}
    return ASKED[path] | {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize("path", ASKED)
async def test_no_provider_fetches_what_a_program_names(doors: Doors, path: str) -> None:
    model = ScriptedModel("So.")
    async with mesh_for(opener(doors), model=model) as mesh:
        _, gateway = await begun(mesh, doors)
        status, document = await asked(gateway, path, with_picture(path, ADDRESS), gateway.token)
        assert (status, "is an address" in json.dumps(document)) == (400, True)
        status, document = await asked(gateway, path, with_picture(path, CONTENTS), gateway.token)
        assert status == 200, document
        doors.may_end.set()
    assert len(model.requests) == 1
