"""Anthropic's Messages API as its clients write it: blocks, thinking, marks of a cache, tools, errors."""

import asyncio
import json
from typing import Any

import pytest

from meshwright.core.errors import Forbidden, InvalidInput, MeshError, NotFound, Overloaded, Unauthenticated
from meshwright.core.messages import Usage
from meshwright.models.anthropic import AnthropicMessages
from meshwright.models.errors import (
    BudgetExceeded,
    ContentRefused,
    ContextTooLong,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
)
from meshwright.models.openai import ChatCompletions
from meshwright.models.port import ModelReply, OnDelta, ToolCall
from meshwright.models.wire import messages
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.messages import CountRequest, count_tokens
from meshwright.models.wire.port import WireCall, find_group
from meshwright.models.wire.stream import StreamedCall

DIALECT = DIALECTS["/v1/messages"]
MARK: Any = {"type": "ephemeral"}
HELLO: Any = [{"role": "user", "content": "Hello?"}]
SCHEMA: Any = {"type": "object", "properties": {"cmd": {"type": "string"}}}
BASH: Any = {"name": "Bash", "description": "Runs.", "input_schema": SCHEMA, "cache_control": MARK}
READ: Any = {"name": "Read", "input_schema": SCHEMA, "type": "custom", "strict": True}
SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}
THINKING: Any = [
    {"type": "thinking", "thinking": "I look.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
]
CALL = ToolCall(id="toolu_1", name="Bash", arguments='{"cmd":"ls"}')
USE: Any = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"cmd": "ls"}}
REPLY = ModelReply(
    model="m",
    content="Let me look.",
    thinking=tuple(THINKING),
    tool_calls=(CALL,),
    finish_reason="tool_calls",
    usage=Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=60, cache_write_tokens=30),
)


def read(headers: dict[str, str] | None = None, **fields: Any) -> WireCall:
    return DIALECT.read({"model": "default", "max_tokens": 50, "messages": HELLO, **fields}, headers or {})


def sent(call: WireCall) -> dict[str, Any]:
    """The request as a provider with this API gets it."""
    return AnthropicMessages().body(call.request, stream=False)


async def events_of(
    call: WireCall, reply: ModelReply | MeshError, until: bytes = b"text_delta", times: int = 1
) -> list[dict[str, Any]]:
    """The events of an answer that ends once its reader has seen a word, none of them if it is empty."""
    seen, frames = asyncio.Event(), b""

    async def complete(on_delta: OnDelta) -> ModelReply:
        on_delta("Let me ")
        if isinstance(reply, MeshError):
            raise reply
        if until:
            await seen.wait()
        on_delta("look.")
        return reply

    async for frame in call.frames(StreamedCall(complete)):
        frames += frame
        if until and frames.count(until) >= times:
            seen.set()
    return [json.loads(line[6:]) for line in frames.splitlines() if line.startswith(b"data: ")]


def test_a_conversation_reaches_a_provider_with_this_api_as_it_was_written() -> None:
    system = [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Rules.", "cache_control": MARK},
    ]
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
    paper = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
        "title": "a.pdf",
    }
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "cache_control": MARK}
    shot = [{"type": "text", "text": "a.txt"}, picture]
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "See"}, picture, paper]},
        {"role": "assistant", "content": [*THINKING, {"type": "text", "text": "I see."}, USE]},
        {"role": "user", "content": [{**result, "content": shot}, {"type": "text", "text": "Go on"}]},
    ]
    call = read(
        {"anthropic-beta": "interleaved-thinking-2025-05-14", "x-litellm-tags": "coding"},
        system=system,
        messages=messages,
        tools=[BASH, READ, SEARCH],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        thinking={"type": "adaptive"},
        output_config={"effort": "xhigh"},
        context_management={"edits": []},
        stop_sequences=["END"],
        top_k=5,
        metadata={"user_id": "{}"},
        from_next_year=1,
    )
    body = sent(call)
    assert (body["system"], body["messages"]) == (system, messages)
    assert [(tool["name"], tool.get("strict")) for tool in body["tools"]] == [("Bash", None), ("Read", True)]
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "xhigh"})
    assert (body["stop_sequences"], body["top_k"], body["max_tokens"]) == (["END"], 5, 50)
    assert AnthropicMessages().request_headers(call.request) == {
        "anthropic-beta": "interleaved-thinking-2025-05-14"
    }
    assert call.request.tags == ("coding",)
    assert call.passed_over == ("from_next_year", "tools.web_search_20250305")


def test_another_provider_gets_words_that_it_knows() -> None:
    document = {"type": "document", "title": "Notes", "source": {"type": "text", "data": "Ten."}}
    call = read(
        system="Be brief.",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Sum up"}, document]}],
        thinking={"type": "enabled", "budget_tokens": 20_000},
        top_k=5,
    )
    body = ChatCompletions().body(call.request, stream=False)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Sum up"}, {"type": "text", "text": "Notes\n\nTen."}],
        },
    ]
    assert body["reasoning_effort"] == "high"
    assert not body.keys() & {"thinking", "anthropic", "top_k", "temperature"}


def test_a_provider_that_refuses_a_field_of_claude_gets_the_next_call_without_it() -> None:
    system = [{"type": "text", "text": "Rules.", "cache_control": MARK}]
    call = read(system=system, thinking={"type": "adaptive"}, output_config={"effort": "low"})
    claude, other = AnthropicMessages(), ChatCompletions()
    assert claude.adapts_to("adaptive thinking is not supported on this model")
    assert claude.adapts_to("this model does not support the effort parameter")
    assert not claude.body(call.request, stream=False).keys() & {"thinking", "output_config"}
    assert other.adapts_to("unknown parameter: 'messages[0].content[0].cache_control'")
    assert other.adapts_to("unrecognized request argument supplied: reasoning_effort")
    body = other.body(call.request, stream=False)
    assert "cache_control" not in json.dumps(body["messages"])
    assert "reasoning_effort" not in body


def test_a_forced_tool_excludes_thinking() -> None:
    call = read(
        tools=[BASH, READ], tool_choice={"type": "tool", "name": "Read"}, thinking={"type": "adaptive"}
    )
    body = sent(call)
    assert ([tool["name"] for tool in body["tools"]], body["tool_choice"]) == (["Read"], {"type": "any"})
    assert "thinking" not in body


def test_a_shape_is_asked_for() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    assert read(output_config={"format": form}).request.response_schema == SCHEMA
    assert read(output_format=form).request.response_schema == SCHEMA


def test_a_message_is_written_in_blocks_with_its_tokens() -> None:
    document = read().whole(REPLY)
    assert document["content"] == [*THINKING, {"type": "text", "text": "Let me look."}, USE]
    assert (document["type"], document["role"], document["stop_reason"]) == (
        "message",
        "assistant",
        "tool_use",
    )
    assert document["usage"] == {
        "input_tokens": 10,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "output_tokens": 7,
    }
    reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
    for reason, stop_reason in reasons.items():
        reply = ModelReply(model="m", content="x", finish_reason=reason)
        assert read().whole(reply)["stop_reason"] == stop_reason


async def test_a_stream_has_the_events_of_the_api_and_ends_with_an_error_that_names_it() -> None:
    events = await events_of(read(), REPLY)
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == ["text", "thinking", "redacted_thinking", "tool_use"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert [delta["text"] for delta in deltas[:2]] == ["Let me ", "look."]
    assert {"type": "signature_delta", "signature": "c2ln"} in deltas
    assert {"type": "input_json_delta", "partial_json": '{"cmd":"ls"}'} in deltas
    *_, last = await events_of(read(), ModelUnavailable("gone"))
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    assert last["error"]["message"] == "All providers unavailable"


async def test_thinking_comes_before_the_text_of_an_answer_that_is_whole() -> None:
    events = await events_of(read(), REPLY, until=b"")
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "redacted_thinking", "text", "tool_use"]
    texts = [event["delta"].get("text") for event in events if event["type"] == "content_block_delta"]
    assert [text for text in texts if text] == ["Let me look."]


async def test_a_stream_has_pings_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PING_SECONDS", 0.001)
    kinds = [event["type"] for event in await events_of(read(), REPLY, until=b"event: ping", times=2)]
    text = kinds.index("content_block_delta")
    assert kinds[:2] == ["message_start", "ping"]
    assert "ping" in kinds[text:]


def test_tokens_are_counted_without_a_model() -> None:
    body: dict[str, Any] = {"model": "default", "messages": HELLO}
    few = count_tokens(CountRequest.model_validate(body))
    many = count_tokens(CountRequest.model_validate({**body, "system": "x" * 3000, "tools": [BASH]}))
    assert 0 < few < 50
    assert many > few + 1000


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("quality", "quality"),
        ("claude-haiku-4-5", "fast"),
        ("claude-opus-4-8", "default"),
        ("gpt-9", None),
        ("ours/claude-x", "ours/claude-x"),
    ],
)
def test_a_name_of_claude_means_a_group(name: str, group: str | None) -> None:
    names = {"claude-*haiku*": "fast", "claude-*": "default"}
    assert find_group(name, ("default", "quality", "fast", "ours/*"), names) == group


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Unauthenticated("no"), 401, "authentication_error"),
        (Forbidden("no"), 403, "permission_error"),
        (NotFound("no"), 404, "not_found_error"),
        (InvalidInput("no", field="x"), 400, "invalid_request_error"),
        (BudgetExceeded("empty"), 402, "billing_error"),
        (Overloaded("busy"), 429, "rate_limit_error"),
        (RateLimited("slow", retry_after_seconds=7), 429, "rate_limit_error"),
        (ContextTooLong("long"), 400, "invalid_request_error"),
        (ContentRefused("no"), 400, "invalid_request_error"),
        (ModelTimeout("late"), 504, "timeout_error"),
        (ModelUnavailable("gone"), 529, "overloaded_error"),
        (MeshError("odd"), 500, "api_error"),
    ],
)
def test_an_error_has_the_status_and_the_type_of_the_api(error: MeshError, status: int, kind: str) -> None:
    answered, headers, document = DIALECT.error(error)
    assert (answered, document["type"], document["error"]["type"]) == (status, "error", kind)
    assert headers["request-id"] == document["request_id"]
    assert document["error"]["message"].startswith("prompt is too long") == isinstance(error, ContextTooLong)
    if isinstance(error, RateLimited):
        assert headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [SEARCH]}, "tools.0.type"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
        ({"tools": [BASH], "tool_choice": {"type": "tool", "name": "absent"}}, "tool_choice"),
        ({"tool_choice": {"type": "odd"}}, "tool_choice.type"),
        ({"container": "c"}, "container"),
        ({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.source"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages.0.content.0.id"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ],
)
def test_a_request_that_cannot_be_made_is_refused_by_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(**fields)
    assert raised.value.field.startswith(field)
