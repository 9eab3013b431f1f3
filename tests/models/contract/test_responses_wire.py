"""The Responses API as a coding agent uses it: tools of each kind, and the items that come back."""

import json
from typing import Any

import pytest

from meshwright.core.errors import InvalidInput
from meshwright.models.port import ModelReply, OnDelta, ToolCall
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.port import WireCall
from meshwright.models.wire.response_tools import function_name
from meshwright.models.wire.stream import StreamedCall

DIALECT = DIALECTS["/v1/responses"]
PATCH: Any = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: hunk+"},
}
SEARCH: Any = {
    "type": "tool_search",
    "execution": "client",
    "description": "Finds tools.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
}
SPAWN: Any = {"type": "function", "name": "spawn", "parameters": {"type": "object", "properties": {}}}
AGENTS: Any = {"type": "namespace", "name": "agents_v1", "description": "Agents.", "tools": [SPAWN]}
TOOLS: Any = [
    {"type": "function", "name": "exec", "parameters": {"type": "object", "properties": {}}, "strict": False},
    PATCH,
    AGENTS,
    {"type": "local_shell"},
    SEARCH,
    {"type": "web_search", "external_web_access": True},
]
HELLO: Any = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go"}]}]
THINKING = ({"type": "thinking", "thinking": "I must look.", "signature": "c2ln"},)
CALLS = (
    ToolCall(id="c1", name="exec", arguments='{"cmd": "ls"}'),
    ToolCall(id="c2", name="apply_patch", arguments='{"input": "*** Begin"}'),
    ToolCall(id="c3", name="agents_v1__spawn", arguments="{}"),
    ToolCall(id="c4", name="local_shell", arguments='{"command": ["ls"]}'),
    ToolCall(id="c5", name="tool_search", arguments='{"query": "mail"}'),
)
FORMS: list[dict[str, Any]] = [
    {"type": "function_call", "call_id": "c1", "name": "exec", "arguments": '{"cmd": "ls"}'},
    {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin"},
    {"type": "function_call", "call_id": "c3", "name": "spawn", "namespace": "agents_v1", "arguments": "{}"},
    {"type": "local_shell_call", "call_id": "c4", "action": {"type": "exec", "env": {}, "command": ["ls"]}},
    {"type": "tool_search_call", "call_id": "c5", "execution": "client", "arguments": {"query": "mail"}},
]


def read(**fields: Any) -> WireCall:
    return DIALECT.read({"model": "default", "input": HELLO, **fields}, {})


def items_of(call: WireCall, reply: ModelReply) -> list[dict[str, Any]]:
    return call.whole(reply)["output"]


async def events_of(call: WireCall, reply: ModelReply) -> list[dict[str, Any]]:
    async def complete(on_delta: OnDelta) -> ModelReply:
        if reply.content:
            on_delta(reply.content)
        return reply

    streamed = StreamedCall(complete)
    frames = b"".join([frame async for frame in call.frames(streamed)])
    return [json.loads(line[6:]) for line in frames.splitlines() if line.startswith(b"data: ")]


def test_tools_of_clients_are_functions_and_hosted_tools_are_passed_over() -> None:
    call = read(
        tools=TOOLS,
        client_metadata={"session": "s"},
        include=["reasoning.encrypted_content"],
        store=False,
        prompt_cache_key="k",
        parallel_tool_calls=True,
        from_next_year=1,
        **{"a secret in a name": 1},
    )
    names = [tool.name for tool in call.request.tools]
    assert names == ["exec", "apply_patch", "agents_v1__spawn", "local_shell", "tool_search"]
    assert "start: hunk+" in call.request.tools[1].description
    assert call.request.params == {"prompt_cache_key": "k", "parallel_tool_calls": True}
    assert call.passed_over == ("client_metadata", "from_next_year", "?", "tools.web_search")


@pytest.mark.parametrize("number", range(len(CALLS)))
async def test_a_call_has_the_form_of_its_tool_whole_streamed_and_sent_back(number: int) -> None:
    call, reply = read(tools=TOOLS), ModelReply(model="m", tool_calls=(CALLS[number],))
    [item] = items_of(call, reply)
    assert item.items() >= {**FORMS[number], "status": "completed"}.items()
    events = await events_of(call, reply)
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == [item]
    back = read(tools=TOOLS, input=[*HELLO, item, {**output_of(item), "output": "done", "tools": [SPAWN]}])
    _, assistant, tool = back.request.messages
    assert (assistant.tool_calls[0].id, assistant.tool_calls[0].name) == (
        CALLS[number].id,
        CALLS[number].name,
    )
    assert (tool.role, tool.tool_call_id) == ("tool", CALLS[number].id)


def output_of(item: dict[str, Any]) -> dict[str, Any]:
    kinds = {"tool_search_call": "tool_search_output"}
    return {"type": kinds.get(item["type"], f"{item['type']}_output"), "call_id": item["call_id"]}


def test_a_tool_that_a_search_has_found_is_offered_from_then_on() -> None:
    search = {"type": "tool_search_call", "call_id": "c5", "execution": "client", "arguments": {"query": "x"}}
    result = {"type": "tool_search_output", "call_id": "c5", "execution": "client", "tools": [AGENTS]}
    call = read(tools=[SEARCH], input=[*HELLO, search, result])
    assert [tool.name for tool in call.request.tools] == ["tool_search", "agents_v1__spawn"]
    assert "spawn" in call.request.messages[-1].content


async def test_thinking_is_sent_back_as_it_came() -> None:
    call = read(tools=TOOLS)
    reply = ModelReply(model="m", content="Let me look.", thinking=THINKING, tool_calls=CALLS[:1])
    events = await events_of(call, reply)
    kinds = [event["type"] for event in events]
    assert {"response.output_text.delta", "response.reasoning_summary_text.delta"} <= {*kinds}
    items = events[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["reasoning", "message", "function_call"]
    output = {"type": "function_call_output", "call_id": "c1", "output": "a.txt"}
    _, assistant, tool = read(input=[*HELLO, *items, output]).request.messages
    assert (assistant.content, assistant.thinking, assistant.tool_calls) == (
        "Let me look.",
        THINKING,
        CALLS[:1],
    )
    assert tool.content == "a.txt"
    foreign = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "of another host"}
    assert [message.role for message in read(input=[*HELLO, foreign]).request.messages] == ["user"]


async def test_a_stream_that_fails_says_so_in_both_ways_that_clients_read() -> None:
    async def complete(on_delta: OnDelta) -> ModelReply:
        raise InvalidInput("no", field="input")

    frames = b"".join([frame async for frame in read().frames(StreamedCall(complete))])
    assert b"event: error\n" in frames
    assert b"event: response.failed\n" in frames


def test_allowed_tools_narrow_what_is_offered() -> None:
    allowed = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
    call = read(tools=TOOLS, tool_choice={"type": "allowed_tools", "mode": "required", "tools": allowed})
    assert [tool.name for tool in call.request.tools] == ["apply_patch"]
    assert call.request.tool_choice == "required"


def test_long_names_of_a_namespace_stay_apart_within_the_limit_of_providers() -> None:
    names = {function_name(f"{'tool' * 20}_{number}", "mcp__server__") for number in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) == 64
    assert function_name("send", "mcp__mail__") == "mcp__mail__send"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "x"}]}, "tools.0.type"),
        ({"tools": ["x"]}, "tools.0"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"input": [*HELLO, {"type": "compaction", "encrypted_content": "x"}]}, "input.1.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input.0.content.0.type"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
    ],
)
def test_a_request_whose_answer_would_mean_something_else_is_refused(
    fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(**fields)
    assert raised.value.field.startswith(field)
    status, _, document = DIALECT.error(raised.value)
    assert (status, document["error"]["param"]) == (400, raised.value.field)
