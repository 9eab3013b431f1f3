"""OpenAI's API over the mesh's models, by the real `openai` client; a fake provider answers."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import openai
import pytest

from meshwright import MeshError
from meshwright.core.errors import ModelError
from meshwright.core.messages import Usage
from meshwright.edges.http.models import GROUPS
from meshwright.models.circuits import MAX_TRIES
from meshwright.models.errors import (
    AllProvidersDown,
    BudgetExceeded,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from meshwright.models.port import CallContext, ChatMessage, ModelReply, ModelRequest, ToolCall
from meshwright.models.server import HttpModel
from meshwright.money.costs import CostQuery
from meshwright.money.keys import Keys
from meshwright.money.spending import Spending
from meshwright.testing import ScriptedModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, WEATHER, Failing, Service, service


@pytest.fixture
async def there(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, model="http", litellm_base_url=fake.url) as running:
        yield running


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
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
            extra_headers={"x-litellm-tags": "coding, cheap"},
        )
    assert str(reply._request_id).startswith("req_")
    assert "no model: Hello?" in (reply.choices[0].message.content or "")
    assert (reply.object, reply.choices[0].finish_reason) == ("chat.completion", "stop")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (11, 7, 18)
    [call] = fake.calls
    assert (call.body["model"], call.body["user"], call.body["max_tokens"]) == ("fast", "helper", 50)
    assert (call.body["tags"], call.body["temperature"]) == (["cheap", "research", "coding"], 0.5)
    assert call.body["metadata"]["tenant_id"] == "default"
    assert "task_id" not in call.body["metadata"]


@pytest.mark.parametrize("tags", [",".join(map(str, range(17))), "x" * 65])
async def test_tags_of_the_header_have_the_limits_of_the_body(there: Service, tags: str) -> None:
    async with there.client(default_headers={"x-litellm-tags": tags}) as client:
        with pytest.raises(openai.BadRequestError, match="16 tags of 64 characters"):
            await client.chat.completions.create(model="fast", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="16 tags of 64 characters"):
            await client.responses.create(model="fast", input="Hello?")


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
        with pytest.raises(openai.BadRequestError, match="asks for a tool that is not there"):
            await create(tool_choice={"type": "function", "function": {"name": "absent"}})
    asked = [([tool.name for tool in request.tools], request.tool_choice) for request in model.requests]
    both = ["weather", "other"]
    assert asked == [(both, "none"), (both, "required"), (["weather"], "required")]


async def test_models_are_listed_and_described(tmp_path: Path) -> None:
    async with service(tmp_path) as there, there.client() as client:
        listed = [model.id async for model in client.models.list()]
        assert {*GROUPS} <= {*listed}
        assert (await client.models.retrieve(listed[0])).id == listed[0]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.models.retrieve("absent/model")


# Embeddings and responses


async def test_texts_are_embedded_by_the_provider_and_priced(there: Service, fake: FakeProvider) -> None:
    async with there.client() as client:
        for asked in ({"encoding_format": "float"}, {}):  # for which the client asks for base64
            made = await client.embeddings.create(model="fast", input=["a", "b"], dimensions=3, **asked)
            assert [each.embedding for each in made.data] == [[0.0, 0.5, 1.0], [1.0, 0.5, 1.0]]
        [one] = (await client.embeddings.create(model="fast", input=[1, 2, 3])).data
    assert one.index == 0
    assert [call.path for call in fake.calls] == ["/v1/embeddings"] * 3
    assert fake.calls[0].body["dimensions"] == 3
    assert [call.body["input"] for call in fake.calls[1:]] == [["a", "b"], [[1, 2, 3]]]
    while (costs := await there.mesh.get(Spending).costs(CostQuery("default"))).total.calls < 3:
        await asyncio.sleep(0.01)  # a call is logged while its answer is on its way
    assert (costs.total.calls, costs.total.prompt_tokens) == (3, 12)


async def test_a_response_holds_text_calls_and_shapes(tmp_path: Path) -> None:
    call = ToolCall(id="c1", name="weather", arguments='{"city": "Bern"}')
    cut = ModelReply(content="It", model="m", finish_reason="length")
    model = ScriptedModel("Hello!", ModelReply(tool_calls=(call,), model="m"), '{"city": "Bern"}', cut)
    tool: Any = {"type": "function", "strict": True, **WEATHER["function"]}
    shape: Any = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    async with service(tmp_path, answering=model) as there, there.client() as client:
        create = partial(client.responses.create, model="fast")
        plain = await create(input="Hello?", instructions="Be brief.", reasoning={"effort": "low"})
        asked = await create(input="Weather?", tools=[tool], max_output_tokens=50)
        result: Any = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
        items: Any = [{"role": "user", "content": "Weather?"}, asked.output[0].to_dict(), result]
        shaped = await create(input=items, text=shape)
        assert (await create(input="Go on")).status == "incomplete"
    assert (plain.output_text, plain.status) == ("Hello!", "completed")
    assert (asked.output[0].type, asked.output[0].to_dict()["arguments"]) == ("function_call", call.arguments)
    assert shaped.output_text == '{"city": "Bern"}'
    first, second, third, _ = model.requests
    assert [(each.role, each.content) for each in first.messages] == [
        ("system", "Be brief."),
        ("user", "Hello?"),
    ]
    assert (first.params, first.max_tokens, first.temperature) == ({"reasoning_effort": "low"}, None, None)
    assert (second.tools[0].strict, second.max_tokens) == (True, 50)
    assert [(each.role, each.tool_call_id) for each in third.messages] == [
        ("user", None),
        ("assistant", None),
        ("tool", "c1"),
    ]
    assert third.messages[1].tool_calls == (call,)
    assert third.response_schema == SCHEMA


async def test_a_response_is_streamed_as_the_client_reads_it(tmp_path: Path) -> None:
    call = ToolCall(id="c1", name="weather", arguments='{"city": "Bern"}')
    model = ScriptedModel(
        ModelReply(content="Let me look.", tool_calls=(call,), model="m"), ModelRefused("no")
    )
    async with service(tmp_path, answering=model) as there, there.client() as client:
        async with client.responses.stream(model="fast", input="Weather?") as stream:
            events = [event.type async for event in stream]
            whole = await stream.get_final_response()
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="fast", input="Weather?", stream=True)
    assert events[:2] == ["response.created", "response.in_progress"]
    assert events.count("response.output_text.delta") > 1
    assert events[-1] == "response.completed"
    assert whole.output_text == "Let me look."
    assert [item.type for item in whole.output] == ["message", "function_call"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"role": "nobody", "content": "Hello?"}]}, "messages.0.role"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
async def test_a_response_that_cannot_be_made_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, Any], param: str
) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there, there.client() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(**{"model": "fast", "input": "Hello?", **wrong})
    assert raised.value.param == param


async def test_a_mesh_may_have_another_mesh_for_its_model(tmp_path: Path) -> None:
    reply = ModelReply(
        content="Hello there!", model="m", usage=Usage(prompt_tokens=3), cost_usd=Decimal("0.25")
    )
    busy = RateLimited("slow down", retry_after_seconds=LONG_SECONDS)
    model = ScriptedModel(reply, reply, busy, ContextTooLong("long"))
    async with service(tmp_path, answering=model) as there:
        made = await there.mesh.get(Keys).create("other-mesh", tenant_id="acme")
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
    assert raised.value.retry_after_seconds == 60 < LONG_SECONDS
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
        await asyncio.wait_for(fake.abandoned.wait(), 60)
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
        ({"logprobs": True}, openai.BadRequestError, "UnsupportedParameter", "logprobs"),
        (
            {"extra_body": {"api_base": "http://x"}},
            openai.BadRequestError,
            "UnsupportedParameter",
            "api_base",
        ),
        ({"extra_body": {"fallbacks": ["x"]}}, openai.BadRequestError, "UnsupportedParameter", "fallbacks"),
        ({"temperature": 3}, openai.BadRequestError, "InvalidInput", "temperature"),
        ({"user": "a b"}, openai.BadRequestError, "InvalidInput", "user"),
        ({"messages": []}, openai.BadRequestError, "InvalidInput", "messages"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            openai.BadRequestError,
            "InvalidInput",
            "messages.0.content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}, {"type": 5}]}]},
            openai.BadRequestError,
            "InvalidInput",
            "messages.0.content.1.type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
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


async def test_what_the_caller_says_and_nothing_else_reaches_the_provider(
    there: Service, fake: FakeProvider
) -> None:
    wanted: dict[str, Any] = {
        "top_p": 0.5,
        "stop": ["END"],
        "seed": 7,
        "presence_penalty": 0.5,
        "reasoning_effort": "low",
        "service_tier": "auto",
        "logit_bias": {"42": 1},
    }
    said = {"messages": HELLO, "model": "fast", "n": 1}
    async with there.client() as client:
        await client.chat.completions.create(**said)
        await client.chat.completions.create(**said, **wanted, extra_body={"min_p": 0.1})
    plain, full = (call.body for call in fake.calls)
    assert not plain.keys() & {"temperature", "max_tokens", "max_completion_tokens", "n", *wanted}
    assert {name: full[name] for name in wanted} == wanted
    assert full["min_p"] == 0.1


async def test_formats_tools_and_pictures_reach_the_provider_as_they_were_written(
    there: Service, fake: FakeProvider
) -> None:
    function = {"name": "look", "description": "Look.", "parameters": SCHEMA, "strict": True}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}}
    content = [{"type": "text", "text": "What is this?"}, picture, {"type": "text", "text": "And why?"}]
    formats: list[dict[str, Any]] = [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
    ]
    async with there.client() as client:
        create: Any = partial(client.chat.completions.create, model="fast")
        for written in formats:
            await create(messages=HELLO, response_format=written)
        tools = [{"type": "function", "function": function}]
        await create(
            messages=[{"role": "user", "content": content}],
            tools=tools,
            tool_choice="none",
            parallel_tool_calls=False,
        )
    bodies = [call.body for call in fake.calls]
    assert [body["response_format"] for body in bodies[:2]] == formats
    assert bodies[2]["messages"] == [{"role": "user", "content": content}]
    assert (bodies[2]["tools"], bodies[2]["tool_choice"]) == (tools, "none")
    assert bodies[2]["parallel_tool_calls"] is False


async def test_a_body_that_is_no_json_or_too_large_is_refused_as_openai_does(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there:
        for body, status in ((b"{", 400), (b" " * 17_000_000, 413)):
            async with there.session.post("/v1/chat/completions", data=BytesIO(body)) as response:
                document = await response.json()
                assert (response.status, document["error"]["type"]) == (status, "invalid_request_error")


async def test_a_path_or_method_that_is_not_there_is_refused_in_the_words_of_each_api(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there, there.client() as client:
        with pytest.raises(openai.NotFoundError, match="POST /v1/completions: not found") as raised:
            await client.completions.create(model="fast", prompt="Hello")
        assert raised.value.code == "unknown_url"
        async with there.session.get("/v1/responses") as response:
            document = await response.json()
            assert (response.status, response.headers["Allow"]) == (405, "POST")
            assert document["error"]["code"] == "method_not_supported"
        headers = {"anthropic-version": "2023-06-01"}
        async with there.session.post("/v1/complete", headers=headers, json={}) as response:
            document = await response.json()
            assert (response.status, document["error"]["type"]) == (404, "not_found_error")
        async with there.session.get("/v1/prompts/x/test") as response:  # of the mesh's own API
            assert "detail" in await response.json()


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


def _of(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


async def test_a_set_of_allowed_tools_narrows_the_tools(tmp_path: Path) -> None:
    tools: Any = [WEATHER, _of("other"), _of("third")]
    model = ScriptedModel("a", "b")
    async with service(tmp_path, answering=model) as there, there.client() as client:
        create = partial(client.chat.completions.create, model="fast", messages=HELLO, tools=tools)
        for mode in ("auto", "required"):
            allowed: Any = {"mode": mode, "tools": [_of("weather"), _of("third")]}
            await create(tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    asked = [([tool.name for tool in request.tools], request.tool_choice) for request in model.requests]
    assert asked == [(["weather", "third"], "auto"), (["weather", "third"], "required")]


async def test_the_input_tokens_of_a_response_are_counted(tmp_path: Path) -> None:
    tool: Any = {"type": "function", **WEATHER["function"]}
    async with service(tmp_path) as there, there.client() as client:
        short = await client.responses.input_tokens.count(model="fast", input="Hello?")
        longer = await client.responses.input_tokens.count(model="fast", input="Hello? " * 50, tools=[tool])
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.responses.input_tokens.count(model="absent", input="Hello?")
    assert (short.object, longer.object) == ("response.input_tokens", "response.input_tokens")
    assert 0 < short.input_tokens < 10 and longer.input_tokens > 100


CUSTOM: Any = {"type": "custom", "custom": {"name": "patch"}}


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("chat/completions", {"tool_choice": CUSTOM}, "tool_choice.type: 'custom' is not possible here"),
        ("chat/completions", {"tool_choice": {"type": "function"}}, "tool_choice.function.name: this field"),
        (
            "chat/completions",
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [CUSTOM]}}},
            "tool_choice.allowed_tools.tools.0.type: 'custom' is not possible here",
        ),
        ("chat/completions", {"tools": [CUSTOM]}, "tools.0.type: must be 'function'"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt is not possible here"),
        ("responses", {}, "input: this field is required"),
        ("responses/input_tokens", {}, "input: this field is required"),
        ("responses/compact", {"input": "Hello?"}, "/v1/responses/compact: not found"),
    ],
)
async def test_a_refusal_names_what_is_refused_in_words_of_the_api(
    tmp_path: Path, path: str, fields: dict[str, Any], words: str
) -> None:
    body = {"model": "fast", **({"messages": HELLO, "tools": [WEATHER]} if "chat" in path else {}), **fields}
    async with service(tmp_path) as there:
        status, document = await there.post(f"/v1/{path}", body)
    assert status in (400, 404) and words in document["error"]["message"], document
