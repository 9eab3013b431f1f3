"""The HTTP adapter against a fake server on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from meshwright.errors import ConfigError, ModelError
from meshwright.models.http import HttpModel
from meshwright.models.port import (
    AllProvidersDown,
    ChatMessage,
    ContentRefused,
    ContextTooLong,
    ModelRefused,
    ModelRequest,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ToolCall,
    ToolSpec,
    Unauthorized,
    Unsupported,
)
from tests.providers.fake import FakeProvider, Fault

KEY = "sk-a-secret-key"
PROMPT = "the prompt nobody may read"


def request(**fields: Any) -> ModelRequest:
    messages = (ChatMessage(role="user", content=PROMPT),)
    return ModelRequest(
        **{"messages": messages, "user": "researcher-agent", "timeout_seconds": 5.0, **fields}
    )


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


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


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match="LITELLM_API_KEY") as refused:
        HttpModel("http://proxy", f"{KEY}\nx")
    assert KEY not in str(refused.value)


def test_the_name_tells_the_server_and_never_the_key() -> None:
    assert HttpModel("http://proxy:4000/v1", KEY).name == "http http://proxy:4000"


async def test_tags_user_and_metadata_are_fields_of_the_request_itself(
    fake: FakeProvider, model: HttpModel
) -> None:
    metadata = {"task_id": "t1", "agent_id": "researcher-agent"}
    await model.complete(request(tags=("research", "cheap"), metadata=metadata))
    body = fake.calls[0].body
    assert body["tags"] == ["research", "cheap"]
    assert body["user"] == "researcher-agent"
    assert body["metadata"] == {**metadata, "tags": ["research", "cheap"]}
    assert metadata == {"task_id": "t1", "agent_id": "researcher-agent"}


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


async def test_a_schema_is_asked_for_as_the_format_of_the_response(
    fake: FakeProvider, model: HttpModel
) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    await model.complete(request(response_schema=schema))
    format_ = fake.calls[0].body["response_format"]
    assert (format_["type"], format_["json_schema"]["schema"]) == ("json_schema", schema)


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


async def test_a_proxys_cache_is_kept_apart_for_each_tenant_and_tag_and_can_be_passed_by(
    fake: FakeProvider, model: HttpModel
) -> None:
    await model.complete(request(metadata={"tenant_id": "acme"}, tags=("b", "a")))
    await model.complete(request(cache=False))
    told = [call.body["cache"] for call in fake.calls]
    assert told == [{"namespace": "acme:a:b"}, {"no-cache": True, "no-store": True}]


def chunk(**delta: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def stream_of(*chunks: dict[str, Any], end: bytes = b"\n\n") -> bytes:
    lines = [json.dumps(each, ensure_ascii=False).encode() for each in chunks]
    return b"".join(b"data: " + line + end for line in [*lines, b"[DONE]"])


PLAIN = stream_of(chunk(content="Zür"), chunk(content="ich ☃"), END)


@pytest.mark.parametrize(
    "pieces",
    [
        [PLAIN],
        [bytes([byte]) for byte in PLAIN],
        [b": keep-alive\n\n" + PLAIN.replace(b"\n\n", b"\n\n: ping\n\n")],
        [PLAIN.replace(b"\n", b"\r\n")],
        [bytes([byte]) for byte in PLAIN.replace(b"\n", b"\r\n")],
        [PLAIN.replace(b"\n", b"\r")],
        [PLAIN.replace(b"data: ", b"data:")],
        [PLAIN.replace(b"\n\n", b"\n")],
        [b"event: message\nid: 1\nretry: 5\n" + PLAIN],
        [PLAIN.removesuffix(b"data: [DONE]\n\n")],
        [PLAIN.removesuffix(b"\n\n")],
    ],
    ids=[
        "plain",
        "bytes",
        "comments",
        "crlf",
        "crlf-bytes",
        "cr",
        "no-space",
        "one-newline",
        "fields",
        "no-done",
        "no-end",
    ],
)
async def test_a_stream_is_read_however_it_is_cut_and_whatever_is_between(
    fake: FakeProvider, model: HttpModel, pieces: list[bytes]
) -> None:
    fake.faults.append(Fault(kind="raw", pieces=pieces))
    told: list[str] = []
    reply = await model.complete(request(), told.append)
    assert (told, reply.content, reply.model) == (["Zür", "ich ☃"], "Zürich ☃", "m")


def fragment(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    told = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return chunk(tool_calls=[{key: value for key, value in told.items() if value is not None}])


@pytest.mark.parametrize(
    "fragments",
    [
        [(0, "a", "x", ""), (1, "b", "y", ""), (1, None, None, "2"), (0, None, None, "1")],
        [(0, "a", "x", "1"), (0, "b", "y", "2")],
        [(None, "a", "x", "1"), (None, "b", "y", "2")],
        [(0, "a", "x", 1), (1, "b", "y", 2)],
        [(1, "a", "x", "1"), (0, "b", "y", ""), (0, "b", "y", "2")],
    ],
    ids=["interleaved", "one-index", "no-index", "objects", "repeated-id"],
)
async def test_fragments_of_tool_calls_find_their_call(
    fake: FakeProvider, model: HttpModel, fragments: list[Any]
) -> None:
    fake.faults.append(Fault(kind="raw", pieces=[stream_of(*(fragment(*each) for each in fragments), END)]))
    reply = await model.complete(request(), [].append)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        ("a", "x", "1"),
        ("b", "y", "2"),
    ]


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([PLAIN[:40]], ModelUnavailable),
        ([stream_of(chunk(content="x"))[: -len(b"data: [DONE]\n\n")]], ModelUnavailable),
        ([], ModelUnavailable),
        ([stream_of({"error": {"type": "overloaded_error"}})], ModelUnavailable),
        ([stream_of({"error": {"message": "x", "code": "429"}})], RateLimited),
        ([stream_of({"error": {"message": "x", "code": 401}})], Unauthorized),
        ([stream_of({"error": {"code": "context_length_exceeded"}})], ModelUnavailable),
        ([stream_of({"error": {"type": "invalid_request_error", "code": "content_filter"}})], ContentRefused),
        ([stream_of({"error": PROMPT})], ModelUnavailable),
        ([b"data: [1]\n\n"], ModelUnavailable),
        ([b"data: {\n\n"], ModelUnavailable),
        ([stream_of({"choices": [7]})], ModelUnavailable),
    ],
)
async def test_a_broken_stream_has_its_kind(
    fake: FakeProvider, model: HttpModel, pieces: list[bytes], kind: type[ModelError]
) -> None:
    fake.faults.append(Fault(kind="raw", pieces=pieces))
    with pytest.raises(ModelError) as failed:
        await model.complete(request(), [].append)
    assert type(failed.value) is kind and PROMPT not in str(failed.value)


@pytest.mark.parametrize(
    "piece",
    [b"data: " + b"x" * 3000, stream_of(*[chunk(content="x" * 400)] * 3, END)],
    ids=["one-line", "in-all"],
)
async def test_a_stream_over_the_limit_is_not_read_to_its_end(fake: FakeProvider, piece: bytes) -> None:
    model = HttpModel(fake.url, KEY, max_reply_bytes=1_000)
    fake.faults.append(Fault(kind="raw", pieces=[piece]))
    with pytest.raises(ModelError, match="more than 1,000 bytes"):
        await model.complete(request(), [].append)
    await model.close()


async def test_a_server_that_does_not_stream_is_told_in_one_piece(
    fake: FakeProvider, model: HttpModel
) -> None:
    message = {"content": "all at once"}
    fake.faults.append(Fault(kind="body", body={"choices": [{"message": message}]}))
    told: list[str] = []
    assert (await model.complete(request(), told.append)).content == "all at once"
    assert told == ["all at once"]


async def test_streams_in_turn_share_a_connection(fake: FakeProvider, model: HttpModel) -> None:
    for _ in range(3):
        await model.complete(request(), [].append)
    assert len({call.peer for call in fake.calls}) == 1


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
    assert (reply.content, reply.model, reply.finish_reason) == ("ab", "group", "stop")
    assert reply.tool_calls == (ToolCall(id="call_0", name="search", arguments='{"query": "x"}'),)
    assert reply.usage.prompt_tokens == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=307, headers={"location": "http://elsewhere/"}), ModelRefused),
        (Fault(status=400), ModelRefused),
        (Fault(status=401), Unauthorized),
        (Fault(status=403), Unauthorized),
        (Fault(status=400, body={"error": {"type": "no_db_connection"}}), Unauthorized),
        (Fault(status=404), ModelRefused),
        (Fault(status=408), ModelTimeout),
        (Fault(status=422), ModelRefused),
        (Fault(status=429), RateLimited),
        (Fault(status=429, body={"error": {"code": "insufficient_quota"}}), ModelRefused),
        (Fault(status=500), ModelUnavailable),
        (Fault(status=503), ModelUnavailable),
        (Fault(status=529), ModelUnavailable),
        (Fault(status=400, body={"error": {"code": "context_length_exceeded"}}), ContextTooLong),
        (
            Fault(status=400, body={"error": {"message": "litellm.ContextWindowExceededError: no"}}),
            ContextTooLong,
        ),
        (Fault(status=400, body=["not an error body"]), ModelRefused),
        (Fault(status=400, body={"error": {"code": "content_filter"}}), ContentRefused),
        (
            Fault(status=400, body={"error": {"message": "litellm.ContentPolicyViolationError: no"}}),
            ContentRefused,
        ),
        (
            Fault(status=429, body={"error": {"message": "No deployments available for selected model"}}),
            AllProvidersDown,
        ),
        (Fault(kind="drop"), ModelUnavailable),
        (Fault(kind="garbage"), ModelUnavailable),
        (Fault(kind="wrong-type"), ModelUnavailable),
        (Fault(kind="body", body=[1]), ModelUnavailable),
        (Fault(kind="body", body={"choices": []}), ModelUnavailable),
        (Fault(kind="body", body={"error": {"message": PROMPT}}), ModelUnavailable),
        (Fault(kind="body", body={"choices": [{"message": {"content": 7}}]}), ModelUnavailable),
        (
            Fault(kind="body", body={"choices": [{"message": {"tool_calls": [{"id": "c"}]}}]}),
            ModelUnavailable,
        ),
    ],
)
async def test_every_fault_has_its_kind_and_its_text_quotes_neither_key_nor_prompt(
    fake: FakeProvider, model: HttpModel, fault: Fault, kind: type[ModelError]
) -> None:
    fake.faults.append(fault)
    with pytest.raises(ModelError) as failed:
        await model.complete(request())
    assert type(failed.value) is kind
    assert failed.value.retryable is kind.retryable
    assert len(fake.calls) == 1
    chain: BaseException | None = failed.value
    while chain is not None and not chain.__suppress_context__:
        chain = chain.__context__
        assert KEY not in str(chain) and PROMPT not in str(chain)
    assert KEY not in str(failed.value) and PROMPT not in str(failed.value)


async def test_a_prompt_that_an_error_quotes_does_not_decide_its_kind(
    fake: FakeProvider, model: HttpModel
) -> None:
    fake.faults.append(Fault(status=400))  # it quotes the request
    text = f"{'x' * 300} insufficient_quota, context length, no_db_connection"
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request(messages=(ChatMessage(role="user", content=text),)))
    assert type(failed.value) is ModelRefused
    assert "rejected the request" in str(failed.value)


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        (400, {"message": "registry.ollama.ai/library/gemma:2b does not support tools"}, "tools"),
        (404, {"message": "No endpoints found that support tool use. To learn more", "code": 404}, "tools"),
        (
            400,
            {"message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser'},
            "tools",
        ),
        (400, {"message": "Function calling is not enabled for this model"}, "tools"),
        (422, {"message": "Unsupported parameter", "param": "tools"}, "tools"),
        (
            400,
            {"message": "litellm.UnsupportedParamsError: p does not support parameters: ['tools'], for m"},
            "tools",
        ),
        (400, {"message": "This response_format type is unavailable now"}, "response_format"),
        (
            400,
            {"message": "'response_format.type' : value is not one of the allowed values ['text']"},
            "response_format",
        ),
        (422, {"message": "json_schema is not supported with this model"}, "response_format"),
        (400, {"message": "Function calling with a response mime type is unsupported"}, ""),
        (404, {"message": "No endpoints found that support the provided 'tool_choice' value"}, ""),
    ],
)
async def test_a_part_of_a_request_that_a_model_does_not_take_is_known_by_the_providers_words(
    fake: FakeProvider, model: HttpModel, status: int, error: dict[str, Any], what: str
) -> None:
    fake.faults.append(Fault(status=status, body={"error": error}))
    with pytest.raises(Unsupported) as failed:
        await model.complete(request())
    assert (failed.value.what, failed.value.answered, failed.value.retryable) == (what, status, False)
    assert error["message"] not in str(failed.value)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, {"message": "The model `gpt-5` does not exist"}),
        (400, {"message": "Invalid schema: 'default' is not permitted", "param": "tools[0].function"}),
        (400, {"message": "Invalid 'tools': array too long"}),
        (400, {"message": "temperature does not support 0.2 with this model"}),
    ],
)
async def test_another_refusal_is_not_taken_for_a_part_that_a_model_does_not_take(
    fake: FakeProvider, model: HttpModel, status: int, error: dict[str, Any]
) -> None:
    fake.faults.append(Fault(status=status, body={"error": error}))
    with pytest.raises(ModelRefused) as failed:
        await model.complete(request())
    assert (type(failed.value), failed.value.answered) == (ModelRefused, status)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("inf", None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(
    fake: FakeProvider, model: HttpModel, header: str, seconds: float | None
) -> None:
    fake.faults.append(Fault(status=429, headers={"retry-after": header}))
    with pytest.raises(RateLimited) as limited:
        await model.complete(request())
    assert limited.value.retry_after_seconds == seconds


async def test_a_proxy_whose_deployments_cool_down_says_for_how_long(
    fake: FakeProvider, model: HttpModel
) -> None:
    said = "No deployments available for selected model, Try again in 30 seconds. Passed model=default"
    fake.faults.append(Fault(status=429, body={"error": {"message": said}}))
    with pytest.raises(AllProvidersDown) as down:
        await model.complete(request())
    assert down.value.retry_after_seconds == 30.0


async def test_a_proxy_whose_fallbacks_failed_too_says_so_behind_what_it_quotes(
    fake: FakeProvider, model: HttpModel
) -> None:
    said = f"litellm.InternalServerError: {'x' * 900}. Error doing the fallback: {'y' * 900}"
    for status, kind in ((500, AllProvidersDown), (400, ModelRefused)):
        fake.faults.append(Fault(status=status, body={"error": {"message": said}}))
        with pytest.raises(ModelError) as failed:
            await model.complete(request())
        assert type(failed.value) is kind


async def test_a_provider_out_of_a_proxys_reach_is_not_called_a_servers_fault(
    fake: FakeProvider, model: HttpModel
) -> None:
    said = "litellm.InternalServerError: OpenAIException - Connection error."
    fake.faults.append(Fault(status=500, body={"error": {"message": said}}))
    with pytest.raises(ModelUnavailable, match="it cannot reach the model's provider"):
        await model.complete(request())


async def test_a_reply_over_the_limit_is_not_read_to_its_end(fake: FakeProvider) -> None:
    model = HttpModel(fake.url, KEY, max_reply_bytes=1_000)
    fake.faults.append(Fault(kind="oversized", size=1_000_000))
    with pytest.raises(ModelError, match="more than 1,000 bytes") as failed:
        await model.complete(request())
    assert not failed.value.retryable
    await model.close()


async def test_nobody_at_the_address_is_said_with_the_address_and_what_to_do(fake: FakeProvider) -> None:
    await fake.runner.cleanup()
    model = HttpModel(fake.url, KEY)
    with pytest.raises(
        ModelUnavailable, match=rf"Cannot connect to {fake.url}: connection refused.*LITELLM_BASE_URL"
    ):
        await model.complete(request())
    await model.close()


async def test_the_deadline_bounds_the_whole_call(fake: FakeProvider, model: HttpModel) -> None:
    fake.faults.append(Fault(kind="hang"))
    with pytest.raises(ModelTimeout, match=r"in 0\.05 seconds"):
        await model.complete(request(timeout_seconds=0.05))
    await fake.abandoned.wait()


async def test_cancelling_a_call_closes_its_connection(fake: FakeProvider, model: HttpModel) -> None:
    fake.faults.append(Fault(kind="hang"))
    call = asyncio.create_task(model.complete(request()))
    await fake.arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await fake.abandoned.wait()


async def test_calls_in_turn_share_a_connection(fake: FakeProvider, model: HttpModel) -> None:
    for _ in range(3):
        await model.complete(request())
    assert len({call.peer for call in fake.calls}) == 1


async def test_many_calls_at_once_wait_for_no_connection(fake: FakeProvider, model: HttpModel) -> None:
    fake.gate = asyncio.Barrier(150)  # nobody is answered before the last one has arrived
    replies = await asyncio.gather(*(model.complete(request()) for _ in range(150)))
    assert len(replies) == 150
