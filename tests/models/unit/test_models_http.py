"""The HTTP adapter against a fake server on a real socket: what it asks, reads, and leaves behind."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from meshwright.core.errors import ConfigError
from meshwright.models.errors import ModelTimeout, ModelUnavailable
from meshwright.models.port import CallContext, ChatMessage, ToolCall, ToolSpec
from meshwright.models.server import AgentKeys, HttpModel
from meshwright.models.structure import response_schema
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_requests import KEY, request


@pytest.fixture
async def model(fake: FakeProvider) -> AsyncIterator[HttpModel]:
    model = HttpModel(fake.url, KEY)
    yield model
    await model.close()


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://proxy:4000", "http://proxy:4000/v1/chat/completions"),
        ("http://proxy:4000/", "http://proxy:4000/v1/chat/completions"),
        ("http://proxy:4000/v1", "http://proxy:4000/v1/chat/completions"),
        ("http://proxy:4000/v1/chat/completions", "http://proxy:4000/v1/chat/completions"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://host/v1beta/openai", "https://host/v1beta/openai/chat/completions"),
        ("https://host/litellm", "https://host/litellm/v1/chat/completions"),
        (" http://[::1]:8080 ", "http://[::1]:8080/v1/chat/completions"),
    ],
)
def test_a_base_url_may_name_a_version_or_not(base: str, url: str) -> None:
    assert HttpModel(base).url == url


@pytest.mark.parametrize(
    "base", ["", "proxy:4000", "ftp://proxy", "http://", "http://a..b", "http://[::1", "http://h:99999"]
)
def test_what_is_no_address_is_refused_at_once(base: str) -> None:
    with pytest.raises(ConfigError, match=r"Write it like http://127\.0\.0\.1:4000"):
        HttpModel(base)


@pytest.mark.parametrize(
    "base", [f"http://user:{KEY}@proxy", f"http://proxy?key={KEY}", f"http://proxy#{KEY}"]
)
def test_a_key_within_the_base_url_is_refused_without_being_shown(base: str) -> None:
    with pytest.raises(ConfigError, match="LITELLM_API_KEY") as refused:
        HttpModel(base)
    assert KEY not in str(refused.value)


async def test_a_proxy_is_called_with_the_key_of_the_agent_that_calls(
    fake: FakeProvider, tmp_path: Path
) -> None:
    keys = AgentKeys(tmp_path)
    model = HttpModel(fake.url, KEY, agent_keys=AgentKeys(tmp_path))
    try:
        await model.complete(request())
        keys.put("default", "researcher-agent", key="sk-own", token="88dc")
        keys.put("acme", "researcher-agent", key="sk-acme", token="99dc")
        await model.complete(request())
        await model.complete(request(context=CallContext(tenant_id="acme")))
        await model.complete(request(user="simple-agent"))
        keys.forget("88dc")
        await model.complete(request())
    finally:
        await model.close()
    sent = [call.headers["Authorization"] for call in fake.calls]
    assert sent == [f"Bearer {key}" for key in (KEY, "sk-own", "sk-acme", KEY, KEY)]
    assert (tmp_path / "proxy-keys.json").stat().st_mode & 0o077 == 0


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match="LITELLM_API_KEY") as refused:
        HttpModel("http://proxy", f"{KEY}\nx")
    assert KEY not in str(refused.value)


def test_the_name_tells_the_server_and_never_the_key() -> None:
    assert HttpModel("http://proxy:4000/v1", KEY).name == "http http://proxy:4000"


async def test_tags_user_and_metadata_are_fields_of_the_request_itself(
    fake: FakeProvider, model: HttpModel
) -> None:
    context = CallContext(task_id="t1", agent_id="researcher-agent", budget_usd=Decimal(1))
    await model.complete(request(tags=("research", "cheap"), context=context))
    body = fake.calls[0].body
    assert body["tags"] == ["research", "cheap"]
    assert body["user"] == "researcher-agent"
    assert body["metadata"] == {
        "task_id": "t1",
        "agent_id": "researcher-agent",
        "tenant_id": "default",
        "tags": ["research", "cheap"],
    }


async def test_a_conversation_with_tools_is_written_as_the_api_wants_it(
    fake: FakeProvider, model: HttpModel
) -> None:
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}}
    messages = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Where?"),
        ChatMessage(
            role="assistant", tool_calls=(ToolCall(id="c1", name="search", arguments='{"query": "x"}'),)
        ),
        ChatMessage(role="tool", content="here", tool_call_id="c1"),
    )
    tool = ToolSpec(name="search", description="Search.", parameters=parameters)
    await model.complete(request(messages=messages, tools=(tool,), temperature=0.5, max_tokens=7))
    body = fake.calls[0].body
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "search", "arguments": '{"query": "x"}'},
                }
            ],
        },
        {"role": "tool", "content": "here", "tool_call_id": "c1"},
    ]
    function = {"name": "search", "description": "Search.", "parameters": parameters}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)
    assert "response_format" not in body


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ('{"n": 2', {"invalid": '{"n": 2'}),
        ("{'n': 2}", {"invalid": "{'n': 2}"}),
        ('{"n": NaN}', {"invalid": '{"n": NaN}'}),
        ("\ud800", {"invalid": "?"}),
        ("[1]", {"value": [1]}),
        ("null", {"value": None}),
        ('"text"', {"value": "text"}),
        ("", {}),
    ],
)
async def test_arguments_of_earlier_calls_are_sent_as_an_object(
    fake: FakeProvider, model: HttpModel, written: str, sent: dict[str, Any]
) -> None:
    messages = (
        ChatMessage(role="user", content="Count."),
        ChatMessage(role="assistant", tool_calls=(ToolCall(id="c1", name="count", arguments=written),)),
        ChatMessage(role="tool", content="the arguments are no object", tool_call_id="c1"),
    )
    await model.complete(request(messages=messages))
    (call,) = fake.calls[0].body["messages"][1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == sent


async def test_a_schema_is_asked_for_as_the_format_of_the_response(
    fake: FakeProvider, model: HttpModel
) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    await model.complete(request(response_schema=schema))
    format_ = fake.calls[0].body["response_format"]
    assert (format_["type"], format_["json_schema"]["schema"]) == ("json_schema", schema)


class Part(BaseModel):
    """A part of a whole."""

    name: str
    size: int | None = Field(default=None, ge=0)


class Whole(BaseModel):
    """Parts, and which kind it is."""

    kind: Literal["a", "b"]
    parts: list[Part]
    default: Part | str


class Loose(BaseModel):
    names: dict[str, int]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (response_schema(Whole), True),
        (response_schema(Loose), None),
        (response_schema(Part) | {"properties": {"tags": {"type": "array", "uniqueItems": True}}}, None),
        ({"type": "object", "properties": {"answer": {"type": "string"}}}, None),
        ({"type": "array", "items": {"type": "string"}}, None),
    ],
    ids=["shape", "free dictionary", "set", "open object", "list"],
)
async def test_a_schema_that_was_prepared_for_strict_mode_is_asked_for_strictly(
    fake: FakeProvider, model: HttpModel, schema: dict[str, Any], strict: bool | None
) -> None:
    await model.complete(request(response_schema=schema))
    assert fake.calls[0].body["response_format"]["json_schema"].get("strict") is strict


async def test_the_key_goes_into_the_header_without_the_space_around_it(fake: FakeProvider) -> None:
    model = HttpModel(fake.url, f" {KEY}\n")
    await model.complete(request())
    await model.close()
    assert fake.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_without_a_key_no_credentials_are_sent(fake: FakeProvider) -> None:
    model = HttpModel(fake.url)
    await model.complete(request())
    await model.close()
    assert "Authorization" not in fake.calls[0].headers


@pytest.mark.parametrize(
    ("headers", "cost"),
    [
        ({}, None),
        ({"x-litellm-response-cost": "0.0125"}, Decimal("0.0125")),
        ({"x-litellm-response-cost": "None"}, None),
        ({"x-litellm-response-cost": "nan"}, None),
        ({"x-litellm-response-cost": "-1"}, None),
        ({"x-litellm-response-cost": "1e20000000"}, None),
        ({"x-litellm-response-cost": "1e300000000"}, None),
        ({"x-litellm-response-cost": "1e-1000000"}, None),
        ({"x-litellm-response-cost": "1000001"}, None),
        ({"x-litellm-response-cost": "3.4500000000000005e-05"}, Decimal("0.0000345")),
        (
            {"x-litellm-response-cost": "0.0125", "x-litellm-attempted-retries": "9" * 5_000},
            Decimal("0.0125"),
        ),
        ({"x-litellm-response-cost": "0.0125", "x-litellm-cache-key": "k"}, Decimal(0)),
    ],
)
async def test_the_cost_is_what_the_proxy_says_and_nothing_for_an_answer_from_its_cache(
    fake: FakeProvider, model: HttpModel, headers: dict[str, str], cost: Decimal | None
) -> None:
    fake.headers = headers
    assert (await model.complete(request())).cost_usd == cost


async def test_a_proxy_tells_which_deployment_answered_after_how_many_tries(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.headers = {
        "x-litellm-model-id": "abc",
        "x-litellm-attempted-fallbacks": "1",
        "x-litellm-attempted-retries": "2",
        "x-litellm-response-cost": "0.0125",
    }
    for on_delta in (None, [].append):
        reply = await model.complete(request(), on_delta)
        assert (reply.deployment, reply.attempts, reply.cache_hit) == ("abc", 4, False)
        # The header of a stream is written before anybody knows what it will cost.
        told = (Decimal("0.0125"), "reported") if on_delta is None else (None, "unknown")
        assert (reply.cost_usd, reply.cost_source) == told


async def test_an_answer_from_a_proxys_cache_is_marked_and_what_it_saved_is_told(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.headers = {"x-litellm-cache-key": "k", "x-litellm-response-cost": "0.0125"}
    reply = await model.complete(request())
    assert (reply.cache_hit, reply.cost_usd, reply.saved_usd) == (True, Decimal(0), Decimal("0.0125"))


async def test_a_cost_that_comes_with_the_tokens_is_taken(fake: FakeProvider, model: HttpModel) -> None:
    fake.usage["cost"] = 0.00000123
    for on_delta in (None, [].append):
        reply = await model.complete(request(), on_delta)
        assert (reply.cost_usd, reply.cost_source) == (Decimal("0.00000123"), "reported")


async def test_a_proxy_that_states_no_cost_of_streams_is_named_once(
    fake: FakeProvider, model: HttpModel, caplog: pytest.LogCaptureFixture
) -> None:
    await model.complete(request(), [].append)  # another server, which has no switch
    fake.headers["x-litellm-version"] = "1.88.6"
    await model.complete(request())
    fake.usage["cost"] = 0.5
    await model.complete(request(), [].append)
    assert not caplog.messages
    del fake.usage["cost"]
    for _ in range(3):
        await model.complete(request(), [].append)
    [warning] = caplog.messages
    assert f"The LiteLLM proxy at {fake.url} states no cost of streamed calls" in warning
    assert "include_cost_in_streaming_usage: true" in warning


async def test_a_proxys_cache_is_kept_apart_for_each_tenant_and_tag_and_can_be_passed_by(
    fake: FakeProvider, model: HttpModel
) -> None:
    await model.complete(request(context=CallContext(tenant_id="acme"), tags=("b", "a")))
    await model.complete(request(cache=False))
    told = [call.body["cache"] for call in fake.calls]
    assert told == [{"namespace": "acme:a:b"}, {"no-cache": True, "no-store": True}]


async def test_servers_that_write_replies_their_own_way_are_understood(
    fake: FakeProvider, model: HttpModel
) -> None:
    call = {"function": {"name": "search", "arguments": {"query": "x"}}}
    message = {
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "tool_calls": [call],
    }
    fake.faults.append(Fault(kind="body", body={"choices": [{"message": message}]}))
    reply = await model.complete(request(model="group"))
    assert (reply.content, reply.model, reply.finish_reason) == ("ab", "group", "unknown")
    assert reply.tool_calls == (ToolCall(id="call_0", name="search", arguments='{"query": "x"}'),)
    assert reply.usage.prompt_tokens == 0


async def test_a_server_that_sends_nothing_of_a_stream_is_away_and_not_slow(
    fake: FakeProvider, model: HttpModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshwright.models.http._SILENT_SECONDS", 0.1)
    silent: list[bool] = []
    for kind, seconds in (("hang", 0.2), ("stall", 2.0), ("hang", 0.05)):
        fake.faults.append(Fault(kind=kind))  # type: ignore[arg-type]
        with pytest.raises(ModelTimeout) as late:
            await model.complete(request(timeout_seconds=seconds), lambda text: None)
        silent.append(late.value.is_silent)
    assert silent == [True, False, False]


async def test_calls_in_turn_share_a_connection(fake: FakeProvider, model: HttpModel) -> None:
    for _ in range(3):
        await model.complete(request())
    assert len({call.peer for call in fake.calls}) == 1


async def test_many_calls_at_once_wait_for_no_connection(fake: FakeProvider, model: HttpModel) -> None:
    fake.gate = asyncio.Barrier(150)  # nobody is answered before the last one has arrived
    replies = await asyncio.gather(*(model.complete(request()) for _ in range(150)))
    assert len(replies) == 150


async def test_a_name_that_leads_to_a_metadata_service_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer_of_a_hostile_name_server(host: str, port: int, **options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer_of_a_hostile_name_server)
    model = HttpModel("http://models.example.org", KEY)
    with pytest.raises(ModelUnavailable, match="permission denied"):
        await model.complete(request())
    await model.close()


FIRST_CALL = """
import asyncio, sys, threading
from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import ChatMessage, ModelRequest
from meshwright.models.server import HttpModel

main = threading.main_thread()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            print("on the event loop" if threading.current_thread() is main else "in a thread")

async def call():
    model = HttpModel("http://127.0.0.1:9")
    sys.meta_path.insert(0, Finder())
    try:
        await model.complete(ModelRequest(user="a", messages=(ChatMessage(role="user", content="Hello"),)))
    except ModelUnavailable:
        await model.close()

asyncio.run(call())
"""


def test_the_first_call_does_not_hold_the_event_loop_by_its_imports() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["in a thread"], done.stderr
