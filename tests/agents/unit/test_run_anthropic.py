"""Anthropic's client of a run: tools, streams and errors as its SDK knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from meshwright import Agent
from meshwright.agents.run.run import Run
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ContentRefused
from meshwright.models.port import ModelReply, ModelRequest, OnDelta
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.run_clients import EchoingModel, ask, author, resumed_text, submitted


async def test_the_client_of_anthropic_has_tools_streams_and_errors_of_its_sdk() -> None:
    async def run(self: Agent, run: Run) -> str:
        client = run.anthropic()
        fields: dict[str, Any] = {"model": "default", "max_tokens": 99}
        fields["messages"] = [{"role": "user", "content": "Ship A."}]
        schema = {"type": "object", "properties": {"order": {"type": "string"}}}
        tools: Any = [{"name": "ship", "description": "Ship.", "input_schema": schema}]
        called = await client.messages.create(**fields, tools=tools, extra_body={"from_next_year": 1})
        async with client.messages.stream(**fields) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        with pytest.raises(anthropic.BadRequestError, match="not that"):
            await client.messages.create(**fields, system="Refuse.")
        with pytest.raises(anthropic.NotFoundError, match="A run does not answer GET /v1/models"):
            await client.models.list()
        counted = await client.messages.count_tokens(model="default", messages=fields["messages"])
        assert counted.input_tokens > 0
        return f"{called.stop_reason} {called.content[0].to_dict()['input']} {text}"

    model = ScriptedModel(tool_call("ship", order="A"), "in pieces", ContentRefused("not that"))
    async with mesh_for(author(run), model=model) as mesh:
        outcome = await mesh.ask("author", "Do it.")
        first, *_ = mesh.events("model.called")
    assert outcome.text == "tool_use {'order': 'A'} in pieces"
    assert first.payload["passed_over"] == ["from_next_year"]


async def test_answers_have_the_same_ids_when_the_run_is_resumed(tmp_path: Path) -> None:
    ids: list[list[str]] = []

    async def run(self: Agent, run: Run) -> str:
        messages: Any = [{"role": "user", "content": "x"}]
        chat, response = run.openai().chat.completions, run.openai().responses
        message = await run.anthropic().messages.create(model="default", max_tokens=9, messages=messages)
        answers = [
            await chat.create(model="default", messages=messages),
            await chat.create(model="default", messages=messages),
            await response.create(model="default", input="x"),
            message,
        ]
        ids.append([answer.id for answer in answers] + [str(answer._request_id) for answer in answers])
        await ask(run, "held")
        return "done"

    first = EchoingModel("held")
    async with kept(tmp_path, author(run), model=first) as mesh:
        task_id = await submitted(mesh)
        await first.reached.wait()
    async with kept(tmp_path, author(run), model=EchoingModel()) as mesh:
        await mesh.get(Tasks).outcome(task_id)
    before, after = ids
    assert before == after
    assert len(set(before)) == 8 and all(request_id.startswith("req_") for request_id in before[4:])


class Bill(BaseModel):
    order: str
    cents: int


class BillingModel(EchoingModel):
    """Answers in the shape of a request."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        reply = await super().complete(request, on_delta)
        if request.response_schema is None:
            return reply
        assert request.response_schema["required"] == ["order", "cents"]
        return reply.model_copy(update={"content": '{"order": "A1", "cents": 700}'})


async def test_answers_in_a_shape_are_parsed_by_the_sdk_and_replayed(tmp_path: Path) -> None:
    parsed: list[list[Any]] = []

    async def run(self: Agent, run: Run) -> str:
        messages, fields = run.anthropic().messages, {"model": "default", "max_tokens": 99}
        whole = await messages.parse(
            **fields, messages=[{"role": "user", "content": "whole"}], output_format=Bill
        )
        schema = {"type": "json_schema", "schema": anthropic.transform_schema(Bill)}
        raw = await messages.create(
            **fields, messages=[{"role": "user", "content": "raw"}], output_config={"format": schema}
        )
        async with messages.stream(
            **fields, messages=[{"role": "user", "content": "stream"}], output_format=Bill
        ) as stream:
            streamed = await stream.get_final_message()
        raw_bill = Bill.model_validate_json(raw.content[0].text)
        parsed.append([whole.parsed_output, raw_bill, streamed.parsed_output])
        await ask(run, "held")
        return "done"

    first, second = BillingModel("held"), BillingModel()
    assert await resumed_text(tmp_path, author(run), first, second) == "done"
    assert parsed == [[Bill(order="A1", cents=700)] * 3] * 2
    assert second.calls == {"held": 1}
