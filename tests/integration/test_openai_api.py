"""OpenAI's API over the mesh's models, by the real `openai` client; a fake provider answers."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from meshwright import MeshError
from meshwright.core.errors import ModelError
from meshwright.core.messages import Usage
from meshwright.edges.http.models import GROUPS
from meshwright.models.port import (
    AllProvidersDown,
    BudgetExceeded,
    CallContext,
    ChatMessage,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from meshwright.models.retry import MAX_TRIES
from meshwright.models.server import HttpModel
from meshwright.testing import ScriptedModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, WEATHER, Failing, Service, service


@pytest.fixture
async def there(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, model="http", litellm_base_url=fake.url) as running:
        yield running


LONG_SECONDS = 200  # longer than a call may take: nobody waits for it


# Answers


async def test_the_openai_client_gets_an_answer_and_its_tokens(there: Service, fake: FakeProvider) -> None:
    async with there.client() as client:
        reply = await client.chat.completions.create(
            model="fast",
            messages=HELLO,
            user="helper",
            max_completion_tokens=50,
            temperature=0.5,
            extra_body={"tags": ["cheap"], "metadata": {"tags": ["research"], "task_id": "forged"}},
        )
    assert "no model: Hello?" in (reply.choices[0].message.content or "")
    assert (reply.object, reply.choices[0].finish_reason) == ("chat.completion", "stop")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (11, 7, 18)
    [call] = fake.calls
    assert (call.body["model"], call.body["user"], call.body["max_tokens"]) == ("fast", "helper", 50)
    assert (call.body["tags"], call.body["temperature"]) == (["cheap", "research"], 0.5)
    assert call.body["metadata"]["tenant_id"] == "default"
    assert "task_id" not in call.body["metadata"]


async def test_messages_of_every_role_reach_the_provider(there: Service, fake: FakeProvider) -> None:
    calls: Any = [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    ]
    async with there.client() as client:
        await client.chat.completions.create(
            model="fast",
            messages=[
                {"role": "developer", "content": "Be short."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "it?"}],
                },
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
        )
    system, user, assistant, tool = fake.calls[0].body["messages"]
    assert (system["role"], user["content"]) == ("system", "How is it?")
    assert assistant["tool_calls"] == calls
    assert (tool["tool_call_id"], tool["content"]) == ("c1", "sunny")


async def test_tools_are_called_and_a_shape_is_asked_for(there: Service, fake: FakeProvider) -> None:
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    fake.replies.append({"tool_calls": [{"id": "c1", "type": "function", "function": function}]})
    schema: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    async with there.client() as client:
        reply = await client.chat.completions.create(model="fast", messages=HELLO, tools=[WEATHER])
        await client.chat.completions.create(model="fast", messages=HELLO, response_format=schema)
    [call] = reply.choices[0].message.tool_calls or []
    assert (call.id, call.type, reply.choices[0].finish_reason) == ("c1", "function", "tool_calls")
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Bern"}')
    assert fake.calls[0].body["tools"] == [WEATHER]
    assert fake.calls[1].body["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_tool_choice_narrows_the_tools(tmp_path: Path) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    named: Any = {"type": "function", "function": {"name": "weather"}}
    tools: Any = [WEATHER, other]
    model = ScriptedModel("a", "b", "c")
    async with service(tmp_path, answering=model) as there, there.client() as client:
        create = partial(client.chat.completions.create, model="fast", messages=HELLO, tools=tools)
        for choice in ("none", "required", named):
            await create(tool_choice=choice)
        with pytest.raises(openai.BadRequestError, match="not among the tools"):
            await create(tool_choice={"type": "function", "function": {"name": "absent"}})
    asked = [([tool.name for tool in request.tools], request.tool_choice) for request in model.requests]
    assert asked == [([], "auto"), (["weather", "other"], "required"), (["weather"], "required")]


async def test_models_are_listed(there: Service) -> None:
    async with there.client() as client:
        assert [model.id async for model in client.models.list()] == list(GROUPS)


async def test_a_mesh_may_have_another_mesh_for_its_model(tmp_path: Path) -> None:
    reply = ModelReply(
        content="Hello there!", model="m", usage=Usage(prompt_tokens=3), cost_usd=Decimal("0.25")
    )
    busy = RateLimited("slow down", retry_after_seconds=LONG_SECONDS)
    model = ScriptedModel(reply, reply, busy, ContextTooLong("long"))
    async with service(tmp_path, answering=model) as there:
        made = await there.mesh.keys.create("other-mesh", tenant_id="acme")
        outer = HttpModel(there.url, made.key)
        request = ModelRequest(
            model="fast",
            messages=(ChatMessage(role="user", content="Hello?"),),
            tags=("cheap",),
            user="researcher-agent",
            context=CallContext(task_id="t1"),
            cache=False,
        )
        heard: list[str] = []
        answers = [await outer.complete(request), await outer.complete(request, heard.append)]
        with pytest.raises(RateLimited) as raised:
            await outer.complete(request)
        with pytest.raises(ContextTooLong):
            await outer.complete(request)
        await outer.close()
        received = model.requests[0]
    assert {(answer.content, answer.usage.prompt_tokens) for answer in answers} == {("Hello there!", 3)}
    assert (answers[0].cost_usd, "".join(heard)) == (Decimal("0.25"), "Hello there!")
    assert raised.value.retry_after_seconds == LONG_SECONDS
    assert (received.user, received.tags, received.cache) == ("other-mesh", ("cheap",), False)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_before_the_answer_closes_the_providers_connection(
    there: Service, fake: FakeProvider, streamed: bool
) -> None:
    fake.faults.append(Fault(kind="hang"))
    async with there.client() as client:
        asking = asyncio.create_task(
            client.chat.completions.create(model="fast", messages=HELLO, stream=streamed)
        )
        await fake.arrived.wait()
        asking.cancel()
        await asyncio.wait_for(fake.abandoned.wait(), 10)
    assert len(fake.calls) == 1


# Errors


FAULTS: list[tuple[MeshError, type[openai.APIStatusError], int, str]] = [
    (AllProvidersDown("gone"), openai.InternalServerError, 503, "providers_unavailable"),
    (ModelUnavailable("gone"), openai.InternalServerError, 503, "providers_unavailable"),
    (ModelTimeout("late"), openai.InternalServerError, 504, "timeout"),
    (Unauthorized("no"), openai.InternalServerError, 502, "provider_unauthorized"),
    (ContextTooLong("long"), openai.BadRequestError, 400, "context_length_exceeded"),
    (ContentRefused("no"), openai.BadRequestError, 400, "content_filter"),
    (ModelRefused("no"), openai.BadRequestError, 400, "ModelRefused"),
    (BudgetExceeded("empty", budget="day"), openai.RateLimitError, 429, "insufficient_quota"),
    (ModelError("odd"), openai.InternalServerError, 502, "ModelError"),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("error", "kind", "status", "code"), FAULTS)
async def test_an_error_is_told_as_openai_tells_it_and_not_tried_again(
    tmp_path: Path,
    error: ModelError,
    kind: type[openai.APIStatusError],
    status: int,
    code: str,
    streamed: bool,
) -> None:
    model = Failing(error)
    async with service(tmp_path, answering=model) as there, there.client() as client:
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO, stream=streamed)
        assert (raised.value.status_code, raised.value.code) == (status, code)
        assert model.calls == (MAX_TRIES if error.retryable else 1)


async def test_a_client_is_told_how_long_to_wait(tmp_path: Path) -> None:
    error = RateLimited("slow down", retry_after_seconds=LONG_SECONDS)
    async with service(tmp_path, answering=Failing(error)) as there, there.client(max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO)
    assert raised.value.response.headers["retry-after"] == str(LONG_SECONDS)
    assert raised.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("wrong", "kind", "code", "param"),
    [
        ({"model": "gtp-5"}, openai.NotFoundError, "model_not_found", "model"),
        ({"n": 2}, openai.BadRequestError, "UnsupportedParameter", "n"),
        ({"stop": ["END"]}, openai.BadRequestError, "UnsupportedParameter", "stop"),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "UnknownParameter", "colour"),
        ({"temperature": 3}, openai.BadRequestError, "InvalidInput", "temperature"),
        ({"user": "a b"}, openai.BadRequestError, "InvalidInput", "user"),
        ({"messages": []}, openai.BadRequestError, "InvalidInput", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError,
            "UnsupportedParameter",
            "messages.0.content",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            openai.BadRequestError,
            "InvalidInput",
            "response_format",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str
) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there, there.client() as client:
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(**{"model": "fast", "messages": HELLO, **wrong})
    assert (raised.value.code, raised.value.param) == (code, param)


async def test_parameters_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel("Hello!")) as there, there.client() as client:
        reply = await client.chat.completions.create(
            model="fast",
            messages=HELLO,
            n=1,
            top_p=1,
            stop=None,
            seed=7,
            presence_penalty=0,
            parallel_tool_calls=True,
            service_tier="auto",
        )
    assert reply.choices[0].message.content == "Hello!"


async def test_a_body_that_is_no_json_or_too_large_is_refused_as_openai_does(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there:
        for body, status in ((b"{", 400), (b"x" * 300_000, 413)):
            async with there.session.post("/v1/chat/completions", data=body) as response:
                document = await response.json()
                assert (response.status, document["error"]["type"]) == (status, "invalid_request_error")


# What the model cannot do


async def test_a_model_without_structured_output_answers_in_a_schema(
    there: Service, fake: FakeProvider
) -> None:
    refused = {"error": {"message": "response_format is not supported", "param": "response_format"}}
    fake.faults.append(Fault(status=400, body=refused))
    arguments = '{"city": "Bern"}'
    call = {"id": "c1", "type": "function", "function": {"name": "final_answer", "arguments": arguments}}
    fake.replies.append({"content": None, "tool_calls": [call]})
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    response_format: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    async with there.client() as client:
        reply = await client.chat.completions.create(
            model="fast", messages=HELLO, response_format=response_format
        )
    assert (reply.choices[0].message.content, reply.choices[0].message.tool_calls) == (arguments, None)
    assert fake.calls[-1].body["tools"][0]["function"]["parameters"] == schema


async def test_a_model_without_tools_calls_them_in_words(there: Service, fake: FakeProvider) -> None:
    fake.faults.append(Fault(status=400, body={"error": {"message": "gemma:2b does not support tools"}}))
    fake.replies.append({"content": '{"tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}'})
    async with there.client() as client:
        reply = await client.chat.completions.create(model="fast", messages=HELLO, tools=[WEATHER])
    [call] = reply.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city":"Bern"}')
    assert reply.choices[0].finish_reason == "tool_calls"
    assert "tools" not in fake.calls[-1].body
