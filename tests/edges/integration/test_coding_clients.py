"""The wires of coding agents over HTTP, by the packages that their providers publish."""

import asyncio
import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from meshwright.core.access import Role
from meshwright.core.errors import ModelError
from meshwright.edges.http import models
from meshwright.models.circuits import MAX_TRIES
from meshwright.models.errors import BudgetExceeded, ContextTooLong, ModelUnavailable
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.models.wire import messages
from meshwright.money.keys import Keys
from meshwright.testing import ScriptedModel
from tests.support.fake_provider import FakeProvider, tool_call
from tests.support.model_api import Failing, Service, service

PATCH: Any = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
SEND: Any = {"type": "function", "name": "send", "parameters": {"type": "object", "properties": {}}}
MAIL: Any = {"type": "namespace", "name": "mail", "description": "Mails.", "tools": [SEND]}
CALLS = (
    ToolCall(id="c1", name="apply_patch", arguments=json.dumps({"input": "*** Begin"})),
    ToolCall(id="c2", name="mail__send", arguments="{}"),
)


async def test_a_response_calls_tools_of_codex_and_names_in_an_event_what_it_passes_over(
    tmp_path: Path,
) -> None:
    reply = ModelReply(model="m", content="I patch.", tool_calls=CALLS)
    tools: Any = [PATCH, MAIL, {"type": "web_search"}]
    async with service(tmp_path, answering=ScriptedModel(reply, "Done.")) as there, there.client() as client:
        async with client.responses.stream(
            model="fast",
            input="Patch it",
            tools=tools,
            store=False,
            include=["reasoning.encrypted_content"],
            extra_body={"client_metadata": {"thread": "t"}},
        ) as stream:
            kinds = [event.type async for event in stream]
            response = await stream.get_final_response()
        items: Any = [item.to_dict() for item in response.output]
        outputs: Any = [
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "patched"},
            {"type": "function_call_output", "call_id": "c2", "output": "sent"},
        ]
        last = await client.responses.create(model="fast", input=[*items, *outputs], tools=tools)
        async with there.session.get("/events?event_type=model.called&limit=5") as answer:
            called = [event["payload"] for event in (await answer.json())["items"]]
    assert "response.custom_tool_call_input.done" in kinds
    assert [item.type for item in response.output] == ["message", "custom_tool_call", "function_call"]
    assert (response.output[1].to_dict()["input"], response.output[2].to_dict()["namespace"]) == (
        "*** Begin",
        "mail",
    )
    assert last.output_text == "Done."
    passed_over = [payload.get("passed_over") for payload in called]
    assert passed_over == [["client_metadata", "tools.web_search"], ["tools.web_search"]]


# Anthropic's client

HELLO: Any = [{"role": "user", "content": "Hello?"}]
BASH: Any = {"name": "Bash", "description": "Runs.", "input_schema": {"type": "object", "properties": {}}}
CLAUDE = """
model_list:
  - model_name: default
    litellm_params: {{model: anthropic/claude-opus-4-8, api_base: "{url}", api_key: sk-x}}
"""


def client(there: Service, key: str = "none", **options: Any) -> anthropic.AsyncAnthropic:
    """Anthropic's own client; it repeats calls by itself, as it does by default."""
    return anthropic.AsyncAnthropic(base_url=there.url, api_key=key, **options)


async def test_claude_thinks_and_calls_a_tool_and_its_thinking_goes_back_unchanged(
    fake: FakeProvider, tmp_path: Path
) -> None:
    (tmp_path / "litellm_config.yaml").write_text(CLAUDE.format(url=fake.url))
    thought = {"reasoning_content": "I must look.", "signature": "c2lnbmF0dXJl"}
    fake.replies += [{**tool_call("Bash", '{"command":"ls"}'), **thought}, {"content": "Done."}]
    request: Any = {"model": "claude-opus-4-8", "max_tokens": 4096, "tools": [BASH]}
    request["thinking"] = {"type": "adaptive"}
    async with service(tmp_path, model="router") as there, client(there) as claude:
        async with claude.messages.stream(messages=HELLO, **request) as stream:
            kinds = [event.type async for event in stream]
            first = await stream.get_final_message()
            assert str(stream.request_id).startswith("req_")
        result: Any = {"type": "tool_result", "tool_use_id": first.content[-1].to_dict()["id"]}
        history: Any = [
            *HELLO,
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {"role": "user", "content": [{**result, "content": "a.txt"}]},
        ]
        last = await claude.beta.messages.create(messages=history, betas=["context-1m-2025-08-07"], **request)
    assert str(last._request_id).startswith("req_")
    assert {"message_start", "content_block_start", "message_stop"} <= {*kinds}
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert (first.stop_reason, first.usage.input_tokens) == ("tool_use", 11)
    assert [block.to_dict() for block in last.content] == [{"type": "text", "text": "Done."}]
    _, assistant, user = fake.calls[1].body["messages"]
    assert assistant["content"][0] == first.content[0].to_dict()
    assert user["content"][0]["content"] == "a.txt"
    assert fake.calls[1].headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert fake.calls[0].body["model"] == "claude-opus-4-8"


async def test_models_and_tokens_are_told_as_anthropic_tells_them(tmp_path: Path) -> None:
    async with service(tmp_path) as there, client(there) as claude:
        listed = [model.id async for model in claude.models.list()]
        assert (await claude.models.retrieve("fast")).display_name == "fast"
        with pytest.raises(anthropic.NotFoundError):
            await claude.models.retrieve("absent")
        counted = await claude.messages.count_tokens(model="claude-haiku-4-5", messages=HELLO, tools=[BASH])
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await claude.messages.create(model="gpt-9", max_tokens=5, messages=HELLO)
    assert {"default", "fast", "quality"} <= {*listed}
    assert counted.input_tokens > 5


async def test_the_tool_runner_goes_on_without_a_thread(tmp_path: Path) -> None:
    @anthropic.beta_async_tool
    async def lookup(query: str) -> str:
        """Look it up.

        Args:
            query: The word.
        """
        return f"found {query}"

    call = ModelReply(model="m", tool_calls=(ToolCall(id="c1", name="lookup", arguments='{"query": "a"}'),))
    model = ScriptedModel(call, "Done.")
    async with service(tmp_path, answering=model) as there, client(there) as claude:
        runner = claude.beta.messages.tool_runner(
            model="default", max_tokens=99, messages=HELLO, tools=[lookup]
        )
        last = await runner.until_done()
    assert [block.to_dict()["text"] for block in last.content] == ["Done."]
    assert model.requests[1].messages[-1].content == "found a"


async def test_a_stream_begins_with_pings_while_a_model_thinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "PING_SECONDS", 0.001)
    monkeypatch.setattr(messages, "PING_SECONDS", 0.001)
    thought = asyncio.Event()

    class Thinking(ScriptedModel):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            await thought.wait()
            return await super().complete(request, on_delta)

    async with service(tmp_path, answering=Thinking("I have it.")) as there:
        body = {"model": "default", "max_tokens": 5, "messages": HELLO, "stream": True}
        async with there.session.post("/v1/messages", json=body) as response:
            lines = [await response.content.readline() for _ in range(7)]
            thought.set()
            rest = await response.text()
        assert lines[::3] == [b"event: message_start\n", b"event: ping\n", b"event: ping\n"]
        assert "I " in rest and "event: message_stop" in rest


async def test_names_of_claude_mean_groups_on_anthropics_api_alone(tmp_path: Path) -> None:
    settings = {"adapter": "offline", "aliases": {"gpt-*": "fast", "claude-*haiku*": "quality"}}
    asked: list[str] = []

    def reply(request: ModelRequest) -> ModelReply:
        asked.append(request.model)
        return ModelReply(content="Yes.", model="m")

    async with service(tmp_path, answering=ScriptedModel(*[reply] * 3), models=settings) as there:
        async with client(there) as claude:
            for name in ("claude-opus-4-8", "claude-haiku-4-5"):
                await claude.messages.create(model=name, max_tokens=5, messages=HELLO)
        async with there.client() as codex:
            await codex.chat.completions.create(model="gpt-9", messages=HELLO)
            with pytest.raises(openai.NotFoundError, match="claude-opus-4-8' does not exist"):
                await codex.chat.completions.create(model="claude-opus-4-8", messages=HELLO)
    assert asked == ["default", "quality", "fast"]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [(BudgetExceeded("empty"), 402), (ContextTooLong("long"), 400), (ModelUnavailable("gone"), 529)],
)
async def test_an_error_is_told_as_anthropic_tells_it_and_not_tried_again(
    tmp_path: Path, error: ModelError, status: int, streamed: bool
) -> None:
    model = Failing(error)
    async with service(tmp_path, answering=model) as there, client(there) as claude:
        with pytest.raises(anthropic.APIStatusError) as raised:
            await claude.messages.create(model="fast", max_tokens=5, messages=HELLO, stream=streamed)
    assert (raised.value.status_code, model.calls) == (status, MAX_TRIES if error.retryable else 1)
    assert raised.value.request_id is not None


async def test_a_wrong_field_is_named(tmp_path: Path) -> None:
    async with service(tmp_path, answering=ScriptedModel()) as there:
        for body in (
            {"model": "fast", "messages": HELLO},
            {"model": "fast", "messages": HELLO, "max_tokens": "x"},
        ):
            status, document = await there.post("/v1/messages?beta=true", body)
            assert (status, document["error"]["details"]["field"]) == (400, "max_tokens")
        status, document = await there.post("/v1/messages/count_tokens", {"model": "fast", "messages": []})
        assert (status, document["error"]["type"]) == (400, "invalid_request_error")


async def test_a_key_counts_by_both_headers_and_a_viewer_calls_no_model(tmp_path: Path) -> None:
    model = ScriptedModel("one", "two")
    async with service(tmp_path, answering=model) as there:
        keys = there.mesh.get(Keys)
        caller = (await keys.create("helper", tenant_id="acme")).key
        viewer = (await keys.create("viewer", roles=(Role.VIEWER,))).key
        create: Any = {"model": "fast", "max_tokens": 5, "messages": HELLO}
        async with client(there, caller) as claude:
            await claude.messages.create(**create)
        async with anthropic.AsyncAnthropic(base_url=there.url, auth_token=caller) as claude:
            await claude.messages.create(**create)
        async with client(there, viewer) as claude:
            for call in (
                claude.messages.create(**create),
                claude.messages.count_tokens(model="fast", messages=HELLO),
            ):
                with pytest.raises(anthropic.PermissionDeniedError):
                    await call
        async with client(there, "sk-mesh-wrong") as claude:
            with pytest.raises(anthropic.AuthenticationError) as raised:
                await claude.messages.create(**create)
        async with there.session.get("/tasks", headers={"x-api-key": caller}) as answer:
            assert answer.status == 401  # of routes of models alone
    assert raised.value.type == "authentication_error"
    assert [request.context.tenant_id for request in model.requests] == ["acme", "acme"]
