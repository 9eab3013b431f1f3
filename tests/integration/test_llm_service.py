"""The llm-service over HTTP, by the real `openai` client and by plain calls; a fake provider answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from meshwright import Agent, Mesh, MeshError, build_mesh, load_settings
from meshwright.api.app import create_app, create_llm_app
from meshwright.api.completions import GROUPS
from meshwright.api.server import serving
from meshwright.assembly.roles import role_of
from meshwright.errors import Draining, ModelError
from meshwright.fleet import load_agents
from meshwright.messages import Usage
from meshwright.models.http import HttpModel
from meshwright.models.pool import FALLBACK, ModelPool, PoolReply
from meshwright.models.port import (
    BEGIN_ANEW,
    AllProvidersDown,
    BudgetExceeded,
    ChatMessage,
    ContentRefused,
    ContextTooLong,
    Model,
    ModelRefused,
    ModelReply,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    OnDelta,
    RateLimited,
    Unauthorized,
)
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.providers.fake import FakeProvider, Fault

ROOT = Path(__file__).parents[2]
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Service:
    """A running mesh with models to offer, and ways to call it."""

    def __init__(self, mesh: Mesh, url: str, session: aiohttp.ClientSession) -> None:
        self.mesh = mesh
        self.url = url
        self.session = session

    def client(self, key: str = "none", **options: Any) -> openai.AsyncOpenAI:
        """OpenAI's own client; it repeats calls by itself, as it does by default."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **options)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """The status and the document of an answer."""
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@asynccontextmanager
async def service(
    folder: Path,
    *,
    answering: Model | None = None,
    make_app: Callable[..., Any] = create_app,
    **settings: Any,
) -> AsyncIterator[Service]:
    chosen = load_settings(folder, **{"durability": "normal", "model": "offline", **settings})
    mesh = build_mesh(chosen, project=folder, agents=[], model=answering)
    app = partial(make_app, groups=GROUPS)
    async with (
        mesh,
        serving(mesh, "127.0.0.1", 0, app) as server,
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        yield Service(mesh, server.url, session)


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def there(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, model="http", litellm_base_url=fake.url) as running:
        yield running


def scripted(folder: Path, *replies: Any) -> Any:
    return service(folder, answering=ScriptedModel(*replies))


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
    async with scripted(tmp_path, "a", "b", "c") as there, there.client() as client:
        create = partial(client.chat.completions.create, model="fast", messages=HELLO, tools=tools)
        for choice in ("none", "required", named):
            await create(tool_choice=choice)
        with pytest.raises(openai.BadRequestError, match="not among the tools"):
            await create(tool_choice={"type": "function", "function": {"name": "absent"}})
        asked = [
            ([tool.name for tool in request.tools], request.tool_choice)
            for request in there.mesh.model.requests
        ]
    assert asked == [([], "auto"), (["weather", "other"], "required"), (["weather"], "required")]


async def test_models_are_listed(there: Service) -> None:
    async with there.client() as client:
        assert [model.id async for model in client.models.list()] == list(GROUPS)


async def test_a_mesh_may_have_another_mesh_for_its_model(tmp_path: Path) -> None:
    reply = ModelReply(
        content="Hello there!", model="m", usage=Usage(prompt_tokens=3), cost_usd=Decimal("0.25")
    )
    busy = RateLimited("slow down", retry_after_seconds=7)
    async with scripted(tmp_path, reply, reply, busy, AllProvidersDown("gone")) as there:
        made = await there.mesh.keys.create("other-mesh", tenant_id="acme")
        outer = HttpModel(there.url, made.key)
        request = ModelRequest(
            model="fast",
            messages=(ChatMessage(role="user", content="Hello?"),),
            tags=("cheap",),
            user="researcher-agent",
            metadata={"tenant_id": "default", "task_id": "t1"},
            cache=False,
        )
        heard: list[str] = []
        answers = [await outer.complete(request), await outer.complete(request, heard.append)]
        with pytest.raises(RateLimited) as raised:
            await outer.complete(request)
        with pytest.raises(ModelUnavailable):
            await outer.complete(request)
        await outer.close()
        received = there.mesh.model.requests[0]
    assert {(answer.content, answer.usage.prompt_tokens) for answer in answers} == {("Hello there!", 3)}
    assert (answers[0].cost_usd, "".join(heard)) == (Decimal("0.25"), "Hello there!")
    assert raised.value.retry_after_seconds == 7
    assert (received.user, received.tags, received.cache) == ("other-mesh", ("cheap",), False)


# Streams


async def test_an_answer_is_streamed_in_pieces_with_its_tokens_at_the_end(
    there: Service, fake: FakeProvider
) -> None:
    async with there.client() as client:
        stream = await client.chat.completions.create(
            model="fast", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    pieces = [
        chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 1
    assert "".join(pieces) == "fake-openai answers, and is no model: Hello?"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 18
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


async def test_tool_calls_come_at_the_end_of_a_stream(tmp_path: Path) -> None:
    calls = [tool_call("weather", city="Bern"), tool_call("weather", city="Basel")]
    tool: Any = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    async with (
        scripted(tmp_path, calls) as there,
        there.client() as client,
        client.chat.completions.stream(model="fast", messages=HELLO, tools=[tool]) as stream,
    ):
        reply = await stream.get_final_completion()
    made = reply.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in made] == ["Bern", "Basel"]
    assert reply.choices[0].finish_reason == "tool_calls"


async def test_a_client_that_leaves_a_stream_closes_the_providers_connection(
    there: Service, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(kind="stall"))
    async with there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await asyncio.wait_for(fake.abandoned.wait(), 10)
    assert len(fake.calls) == 1


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


class Breaking:
    """A model whose stream breaks off in the middle, and whose next attempt begins anew."""

    name = "breaking"

    def __init__(self, *second: str) -> None:
        self.second = second

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        assert on_delta is not None
        for text in ("Once ", "upon ", BEGIN_ANEW, *self.second):
            on_delta(text)
            await asyncio.sleep(0)
        return ModelReply(content="".join(self.second), model=self.name)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "second", [("Once ", "upon ", "a time"), ("On", "ce upon a", " time"), ("Once upon a time",)]
)
async def test_a_stream_goes_on_where_another_attempt_says_the_same(
    tmp_path: Path, second: tuple[str, ...]
) -> None:
    async with service(tmp_path, answering=Breaking(*second)) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Once upon a time"


async def test_a_stream_ends_with_an_error_where_another_attempt_says_otherwise(tmp_path: Path) -> None:
    async with service(tmp_path, answering=Breaking("There ", "was")) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="All providers unavailable"):
            async for _ in stream:
                pass


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
    (ModelError("odd"), openai.InternalServerError, 500, "ModelError"),
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
    async with scripted(tmp_path, error) as there, there.client() as client:
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO, stream=streamed)
        assert (raised.value.status_code, raised.value.code) == (status, code)
        assert len(there.mesh.model.requests) == 1


async def test_a_client_is_told_how_long_to_wait(tmp_path: Path) -> None:
    error = RateLimited("slow down", retry_after_seconds=7)
    async with scripted(tmp_path, error) as there, there.client(max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO)
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.code == "rate_limit_exceeded"


async def test_a_stream_that_dies_in_the_middle_ends_with_an_error(
    tmp_path: Path, fake: FakeProvider
) -> None:
    class Dying(Breaking):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            assert on_delta is not None
            on_delta("Once ")
            raise ModelUnavailable("the connection broke")

    async with service(tmp_path, answering=Dying()) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="All providers unavailable"):
            async for _ in stream:
                pass


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
    async with scripted(tmp_path) as there, there.client() as client:
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(**{"model": "fast", "messages": HELLO, **wrong})
    assert (raised.value.code, raised.value.param) == (code, param)


async def test_parameters_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    async with scripted(tmp_path, "Hello!") as there, there.client() as client:
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
    async with scripted(tmp_path) as there:
        for body, status in ((b"{", 400), (b"x" * 300_000, 413)):
            async with there.session.post("/v1/chat/completions", data=body) as response:
                document = await response.json()
                assert (response.status, document["error"]["type"]) == (status, "invalid_request_error")


# By need


async def test_complete_answers_by_how_good_the_model_has_to_be(there: Service, fake: FakeProvider) -> None:
    asked = {"model": "quality", "messages": HELLO, "tenant_id": "acme"}
    status, document = await there.post("/complete", asked)
    assert status == 200
    assert document.keys() == {"content", "model", "usage"}
    assert document["usage"] == {"prompt_tokens": 11, "completion_tokens": 7}
    [call] = fake.calls
    assert (call.body["model"], call.body["user"]) == ("quality", "llm-service")
    assert call.body["metadata"]["tenant_id"] == "acme"


@pytest.mark.parametrize(
    "error", [AllProvidersDown("gone"), ModelUnavailable("gone"), ModelTimeout("late")], ids=type
)
async def test_complete_says_that_all_providers_are_down(tmp_path: Path, error: ModelError) -> None:
    async with scripted(tmp_path, error) as there:
        answer = await there.post("/complete", {"model": "fast", "messages": HELLO})
    assert answer == (503, {"error": "All providers unavailable"})


@pytest.mark.parametrize(
    ("error", "status"),
    [(BudgetExceeded("empty", budget="day"), 402), (RateLimited("slow"), 429), (ContextTooLong("long"), 502)],
)
async def test_complete_tells_other_errors_as_problems(
    tmp_path: Path, error: ModelError, status: int
) -> None:
    async with scripted(tmp_path, error) as there:
        found, document = await there.post("/complete", {"model": "fast", "messages": HELLO})
    assert (found, document["code"]) == (status, error.code)


async def test_complete_knows_two_models(tmp_path: Path) -> None:
    async with scripted(tmp_path) as there:
        status, document = await there.post("/complete", {"model": "best", "messages": HELLO})
    assert (status, document["field"]) == (422, "model")


async def test_a_client_that_leaves_complete_closes_the_providers_connection(
    there: Service, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(kind="hang"))
    asking = asyncio.create_task(there.post("/complete", {"model": "fast", "messages": HELLO}))
    await fake.arrived.wait()
    asking.cancel()
    await asyncio.wait_for(fake.abandoned.wait(), 10)


# Keys


async def test_without_a_key_only_this_machine_is_let_in_and_only_while_there_is_none(tmp_path: Path) -> None:
    asked = {"model": "fast", "messages": HELLO}
    async with scripted(tmp_path, "one", "two") as there:
        assert (await there.post("/complete", asked))[0] == 200
        for name in ("X-Forwarded-For", "Forwarded", "Via"):
            assert (await there.post("/complete", asked, **{name: "1.1.1.1"}))[0] == 401
        made = await there.mesh.keys.create("helper")
        assert (await there.post("/complete", asked))[0] == 401
        with pytest.raises(openai.AuthenticationError) as raised:
            async with there.client("none") as client:
                await client.models.list()
        assert raised.value.code == "invalid_api_key"
        assert (await there.post("/complete", asked, Authorization=f"Bearer {made.key}"))[0] == 200
        await there.mesh.keys.revoke(made.key_id)
        for shown in ({}, {"Authorization": f"Bearer {made.key}"}):
            assert (await there.post("/complete", asked, **shown))[0] == 401


async def test_a_key_says_whose_call_it_is(tmp_path: Path) -> None:
    async with scripted(tmp_path, "one", "two") as there:
        made = await there.mesh.keys.create("helper", tenant_id="acme", budget="5.00/day")
        async with there.client(made.key) as client:
            create = partial(client.chat.completions.create, model="fast", messages=HELLO)
            await create(user="somebody-else")
            await create(extra_body={"tenant_id": "acme"})
            with pytest.raises(openai.PermissionDeniedError):
                await create(extra_body={"tenant_id": "other"})
        status, _ = await there.post(
            "/complete",
            {"model": "fast", "messages": HELLO, "tenant_id": "other"},
            Authorization=f"Bearer {made.key}",
        )
        requests = there.mesh.model.requests
    assert status == 403
    assert {(request.user, request.metadata["tenant_id"]) for request in requests} == {("helper", "acme")}
    assert requests[0].metadata["key_id"] == made.key_id
    assert requests[0].metadata["budgets"] == [made.budget.model_dump(mode="json")]


async def test_keys_are_made_listed_and_revoked_over_http(tmp_path: Path) -> None:
    async with scripted(tmp_path) as there:
        wanted = {"agent_id": "helper", "tenant_id": "acme", "budget": "1/hour"}
        status, made = await there.post("/keys", wanted)
        assert (status, made["budget"]["limit_usd"], made["budget"]["window"]) == (201, "1", "hour")
        assert (await there.mesh.keys.check(made["key"])).agent_id == "helper"
        async with there.session.get("/keys") as response:
            text = await response.text()
        assert made["key_id"] in text
        assert made["key"] not in text
        async with there.session.delete(f"/keys/{made['key_id']}") as response:
            assert (await response.json())["revoked_at"]
        async with there.session.delete("/keys/none") as response:
            assert response.status == 404
        assert (await there.post("/keys", wanted, **{"X-Forwarded-For": "1.1.1.1"}))[0] == 403


# Its own worker


async def test_the_worker_of_the_llm_service_serves_models_and_nothing_else(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel("Hello!"), make_app=create_llm_app) as there:
        for path, expected in (("/health", 200), ("/readyz", 200), ("/v1/models", 200), ("/tasks", 404)):
            async with there.session.get(path) as response:
                assert response.status == expected, path
                if path == "/health":
                    assert await response.json() == {"status": "ok"}
        assert (await there.post("/complete", {"model": "fast", "messages": HELLO}))[0] == 200


def test_the_app_llm_service_has_its_agent_and_no_other_part() -> None:
    role = role_of("llm-service", ["simple-agent", "llm-service"])
    assert (role.agents, role.parts, role.offers_models) == ({"llm-service"}, [], True)


async def test_a_mesh_that_stops_takes_no_calls(tmp_path: Path) -> None:
    async with scripted(tmp_path) as there, there.client(max_retries=0) as client:
        there.mesh.ready = False
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(model="fast", messages=HELLO)
    assert (raised.value.status_code, raised.value.code) == (503, Draining.__name__)
    assert raised.value.response.headers["retry-after"] == "1"


# Its agent


@pytest.fixture(scope="module")
def agent() -> type[Agent]:
    [agent] = [each for each in load_agents(ROOT / "actors") if each.agent_id == "llm-service"]
    return agent


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        ({"text": "Hello?"}, "Hello?"),
        ({"messages": HELLO}, "Hello?"),
        (
            {
                "messages": [
                    *HELLO,
                    {"role": "assistant", "content": "Yes."},
                    {"role": "user", "content": "So?"},
                ]
            },
            "user: Hello?\n\nassistant: Yes.\n\nuser: So?",
        ),
    ],
)
async def test_the_agent_answers_by_one_plain_call(
    agent: type[Agent], payload: dict[str, Any], asked: str
) -> None:
    model = ScriptedModel("Hello!")
    async with mesh_for(agent, model=model, project=ROOT) as mesh:
        receipt = await mesh.submit(capability="completion", payload=payload)
        outcome = await mesh.outcome(receipt.task_id)
    [request] = model.requests
    assert (outcome.text, request.messages[-1].content) == ("Hello!", asked)
    assert (request.model, request.tools, request.user) == ("quality", (), "llm-service")


@pytest.mark.parametrize(
    "payload", [{}, {"messages": []}, {"messages": ["Hello?"]}, {"messages": [{"role": "user"}]}]
)
async def test_the_agent_says_what_it_needs(agent: type[Agent], payload: dict[str, Any]) -> None:
    async with mesh_for(agent, project=ROOT, max_attempts=1) as mesh:
        receipt = await mesh.submit(capability="completion", payload=payload)
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.error is not None
    assert "payload.messages" in outcome.error.message


# Its client


async def test_the_pool_gives_an_answer_or_a_polite_word(tmp_path: Path) -> None:
    async with scripted(tmp_path, "Hello!", AllProvidersDown("gone")) as there:
        pool = ModelPool(there.url)
        answered = await pool.complete(HELLO, model="fast", tenant_id="acme")
        assert (answered.content, answered.model, answered.available) == ("Hello!", "scripted", True)
        assert await pool.complete(HELLO) == PoolReply(FALLBACK, available=False)
        with pytest.raises(ModelRefused, match="answered 422"):
            await pool.complete([])
        await pool.close()
    nobody = ModelPool(there.url, fallback="Later, please.")
    assert await nobody.complete(HELLO) == PoolReply("Later, please.", available=False)
    await nobody.close()
