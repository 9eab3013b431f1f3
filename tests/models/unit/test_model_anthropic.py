"""Anthropic's API natively: what is sent, what is kept of an answer, and what it counts."""

import json
from typing import Any

import pytest

from meshwright.models.errors import Unsupported
from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, ToolCall, ToolSpec
from meshwright.models.thinking import Thinking
from tests.support.fake_provider import FakeProvider, Fault, tool_call
from tests.support.pickers import KEY, LITELLM, Make, deployment

LOOK = ToolSpec(name="look", description="Look.", parameters={"type": "object", "properties": {}})
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
THINKING: Any = {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmVk"}
HIDDEN = {"type": "redacted_thinking", "data": "b3BhcXVl"}


@pytest.fixture
def model(make: Make, fake: FakeProvider) -> Picker:
    return at(make, fake)


def at(make: Make, fake: FakeProvider, **params: Any) -> Picker:
    return make([deployment(fake, "default", "anthropic/claude-haiku-4-5", api_base=fake.url, **params)])


def request(*messages: ChatMessage, **fields: Any) -> ModelRequest:
    said = messages or (ChatMessage(role="user", content="Hello"),)
    return ModelRequest(messages=said, user="poet", **fields)


def message(blocks: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 7}
    return {
        "model": "claude-haiku-4-5",
        "content": blocks,
        "stop_reason": "tool_use",
        "usage": usage,
        **fields,
    }


async def test_a_conversation_is_written_as_the_api_wants_it(model: Picker, fake: FakeProvider) -> None:
    calls = tuple(ToolCall(id=f"c{n}", name="look", arguments='{"n": 1}') for n in (1, 2))
    said = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Look."),
        ChatMessage(role="assistant", tool_calls=calls),
        ChatMessage(role="tool", content="one", tool_call_id="c1"),
        ChatMessage(role="tool", content="two", tool_call_id="c2"),
    )
    await model.complete(request(*said, tools=(LOOK,), tool_choice="required"))
    [call] = fake.calls
    assert (call.headers["x-api-key"], call.headers["anthropic-version"]) == (KEY, "2023-06-01")
    cached = {"cache_control": {"type": "ephemeral"}}
    assert call.body["system"] == [{"type": "text", "text": "Be brief.", **cached}]
    assert [each["role"] for each in call.body["messages"]] == ["user", "assistant", "user"]
    assert [each["tool_use_id"] for each in call.body["messages"][2]["content"]] == ["c1", "c2"]
    assert call.body["messages"][1]["content"][0]["input"] == {"n": 1}
    assert call.body["tools"] == [{"name": "look", "description": "Look.", "input_schema": LOOK.parameters}]
    assert (call.body["tool_choice"], call.body["metadata"]) == ({"type": "any"}, {"user_id": "poet"})


async def test_a_conversation_that_goes_on_is_cached_up_to_its_last_questions(
    model: Picker, fake: FakeProvider
) -> None:
    call = ToolCall(id="c1", name="look")
    said = (
        ChatMessage(role="user", content="One."),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content="seen", tool_call_id="c1"),
    )
    await model.complete(request(*said, tools=(LOOK,)))
    await model.complete(request(*said[:1]))
    first, once = (call.body for call in fake.calls)
    marked = [block.get("cache_control") for each in first["messages"] for block in each["content"]]
    assert marked == [{"type": "ephemeral"}, None, {"type": "ephemeral"}]
    assert first["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(once)


@pytest.mark.far("LiteLLM takes seconds to import")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")
async def test_litellm_asks_claude_to_cache_a_conversation_that_goes_on(
    make: Make, fake: FakeProvider
) -> None:
    call = ToolCall(id="c1", name="look")
    said = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="One."),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content="seen", tool_call_id="c1"),
    )
    await at(make, fake, **LITELLM).complete(request(*said, tools=(LOOK,), timeout_seconds=60.0))
    body = fake.calls[0].body
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    marked = [block.get("cache_control") for each in body["messages"] for block in each["content"]]
    assert marked == [{"type": "ephemeral"}, None, {"type": "ephemeral"}]


async def test_parameters_of_openai_are_written_in_the_words_of_the_api(
    model: Picker, fake: FakeProvider
) -> None:
    params = {"stop": "END", "top_p": 0.5, "top_k": 3, "seed": 7, "parallel_tool_calls": False}
    await model.complete(request(tools=(LOOK,), params=params, temperature=None))
    await model.complete(request(params={"reasoning_effort": "low"}, max_tokens=8000))
    await model.complete(request(params={"reasoning_effort": "high"}, max_tokens=1000))
    plain, thinking, short = (call.body for call in fake.calls)
    assert (plain["stop_sequences"], plain["top_p"], plain["top_k"]) == (["END"], 0.5, 3)
    assert plain["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert not plain.keys() & {"stop", "seed", "temperature", "parallel_tool_calls"}
    assert thinking["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert "temperature" not in thinking
    assert "thinking" not in short  # nothing would be left for an answer
    with pytest.raises(Unsupported, match="presence_penalty"):
        await model.complete(request(params={"presence_penalty": 1}))


async def test_pictures_and_files_are_written_as_blocks(model: Picker, fake: FakeProvider) -> None:
    parts: tuple[dict[str, Any], ...] = (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "and"},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,SGk="}},
    )
    said = ChatMessage(role="user", content="Look:", parts=parts)
    await model.complete(request(said))
    assert fake.calls[0].body["messages"][0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "text", "text": "and"},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}},
    ]
    sound = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    with pytest.raises(Unsupported, match="input_audio"):
        await model.complete(request(ChatMessage(role="user", parts=(sound,))))


async def test_a_conversation_that_the_assistant_begins_or_nobody_is_completed(
    model: Picker, fake: FakeProvider
) -> None:
    for said in ((ChatMessage(role="assistant", content="Hi"), ChatMessage(role="user", content="")), ()):
        await model.complete(ModelRequest(messages=said, user="poet"))
        body = fake.calls[-1].body
        assert body["messages"][0]["role"] == "user"
        assert all(block["text"].strip() for each in body["messages"] for block in each["content"])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_thinking_is_kept_and_given_back_as_it_came(
    model: Picker, fake: FakeProvider, streamed: bool
) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    fake.faults.append(answered([THINKING, HIDDEN, call], streamed))
    taken = ThoughtTaker()
    reply = await model.complete(request(tools=(LOOK,)), taken if streamed else None)
    assert reply.thinking == (THINKING, HIDDEN)
    ended = [Thinking(block=THINKING), Thinking(block=HIDDEN)]
    assert taken.pieces == ([Thinking("Let me see."), *ended] if streamed else [])
    kept = ModelReply.model_validate_json(reply.model_dump_json())
    result = ChatMessage(role="tool", content="done", tool_call_id="c1")
    await model.complete(request(*request().messages, kept.message(), result, tools=(LOOK,)))
    assert fake.calls[1].body["messages"][1]["content"][:2] == [THINKING, HIDDEN]


class ThoughtTaker:
    """Takes the thinking of a stream beside its text."""

    def __init__(self) -> None:
        self.pieces: list[Thinking] = []
        self.thinking = self.pieces.append

    def __call__(self, text: str) -> None: ...


def answered(blocks: list[dict[str, Any]], streamed: bool) -> Fault:
    """A message of these blocks; in a stream thinking comes in pieces, as Anthropic sends it."""
    if not streamed:
        return Fault(kind="body", body=message(blocks))
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message([])}]
    for index, block in enumerate(blocks):
        grows = block["type"] == "thinking"
        empty = {**block, "thinking": "", "signature": ""} if grows else block
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        for name in ("thinking", "signature") if grows else ():
            delta = {"type": f"{name}_delta", name: block[name]}
            events.append({"type": "content_block_delta", "index": index, "delta": delta})
    events.append(
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}}
    )
    events.append({"type": "message_stop"})
    return Fault(kind="raw", pieces=[b"data: " + json.dumps(each).encode() + b"\n\n" for each in events])


async def test_no_temperature_goes_along_where_the_model_thinks(make: Make, fake: FakeProvider) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    await at(make, fake, thinking=thinking).complete(request())
    assert fake.calls[0].body["thinking"] == thinking
    assert "temperature" not in fake.calls[0].body


async def test_the_places_that_the_file_names_are_marked_for_the_cache(
    make: Make, fake: FakeProvider
) -> None:
    points = [
        {"location": "message", "role": "system"},
        {"location": "message", "index": -1, "control": {"type": "ephemeral", "ttl": "1h"}},
        {"location": "tool_config"},
        {"location": "message", "role": "assistant"},
    ]
    said = (ChatMessage(role="system", content="Long."), *request().messages)
    model = at(make, fake, cache_control_injection_points=points)
    await model.complete(request(*said, tools=(LOOK,)))
    body = fake.calls[0].body
    assert body["system"][0]["cache_control"] == body["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


async def test_tokens_from_and_for_the_cache_are_counted_and_priced(
    model: Picker, fake: FakeProvider
) -> None:
    usage = {"input_tokens": 500, "cache_read_input_tokens": 200, "cache_creation_input_tokens": 300}
    told = message([{"type": "text", "text": "Hi"}], usage={**usage, "output_tokens": 100})
    fake.faults.append(Fault(kind="body", body={**told, "stop_reason": "end_turn"}))
    reply = await model.complete(request())
    assert (reply.usage.prompt_tokens, reply.usage.cached_tokens) == (1_000, 200)
    assert reply.usage.cache_write_tokens == 300
    # Haiku: 500 at $1, 200 at $0.10, 300 at $1.25, 100 out at $5 a million.
    assert (f"{reply.cost_usd:f}", reply.cost_source) == ("0.001395", "priced")


async def test_an_answer_in_a_shape_may_come_beside_calls_of_other_tools(
    model: Picker, fake: FakeProvider
) -> None:
    fake.replies.append(tool_call("look", "{}"))
    reply = await model.complete(request(tools=(LOOK,), response_schema=SCHEMA))
    assert [call.name for call in reply.tool_calls] == ["look"]
    assert fake.calls[0].body["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize(
    ("told", "finish"), [("end_turn", "stop"), ("max_tokens", "length"), ("pause_turn", "stop")]
)
async def test_why_it_ended_is_told_in_openais_words(
    model: Picker, fake: FakeProvider, told: str, finish: str
) -> None:
    body = message([{"type": "text", "text": "Hi"}], stop_reason=told)
    fake.faults.append(Fault(kind="body", body=body))
    assert (await model.complete(request())).finish_reason == finish


async def test_a_temperature_that_a_model_does_not_take_is_left_out_from_then_on(
    model: Picker, fake: FakeProvider
) -> None:
    words = {"type": "invalid_request_error", "message": "`temperature` is deprecated for this model."}
    fake.faults.append(Fault(status=400, body={"type": "error", "error": words}))
    for _ in range(2):
        await model.complete(request())
    assert ["temperature" in call.body for call in fake.calls] == [True, False, False]
