"""Thinking in the streams of a run's clients: in its place, whole, and the same again when it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshwright import Agent
from meshwright.agents.run.run import Run
from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.models.thinking import Thinking, thinking_callback
from meshwright.testing import mesh_for
from tests.support.run_clients import EchoingModel, ask, author, resumed_text

MESSAGES: Any = [{"role": "user", "content": "think"}]
BLOCKS: tuple[dict[str, Any], ...] = (
    {"type": "thinking", "thinking": "I must look.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "b3BhcXVl"},
)
TOOL: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}


class ThinkingModel(EchoingModel):
    """Thinks in pieces before it answers in pieces, and calls a tool."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        reply = await super().complete(request, on_delta)
        if request.messages[-1].content != "think":
            return reply
        if on_delta is not None:
            if (take_thinking := thinking_callback(on_delta)) is not None:
                for piece in ("I must ", "look."):
                    take_thinking(Thinking(piece))
                for block in BLOCKS:
                    take_thinking(Thinking(block=block))
            for piece in ("Let me ", "look."):
                on_delta(piece)
        call = ToolCall(id="c1", name="look", arguments="{}")
        return reply.model_copy(
            update={
                "content": "Let me look.",
                "thinking": BLOCKS,
                "tool_calls": (call,) * bool(request.tools),
            }
        )


async def message_of(run: Run) -> tuple[Any, ...]:
    """The blocks of a message as they begin, and those of the message that the SDK has put together."""
    fields: Any = {"model": "default", "max_tokens": 99, "messages": MESSAGES, "tools": [TOOL]}
    async with run.anthropic().messages.stream(**fields) as stream:
        kinds = [event.content_block.type async for event in stream if event.type == "content_block_start"]
        message = await stream.get_final_message()
    return kinds, [block.to_dict() for block in message.content]


async def response_of(run: Run) -> tuple[Any, ...]:
    """The items of a response as they begin, as they end, and those of the whole response."""
    begun, ended, response = [], [], None
    async for event in await run.openai().responses.create(model="default", input="think", stream=True):
        if event.type == "response.output_item.added":
            begun.append(event.item.type)
        elif event.type == "response.output_item.done":
            ended.append(event.item.to_dict())
        elif event.type == "response.completed":
            response = [item.to_dict() for item in event.response.output]
    return begun, ended, response


async def completion_of(run: Run) -> tuple[Any, ...]:
    """The fields of a completion in the order of their pieces, and the message that the SDK puts together."""
    fields: Any = {"model": "default", "messages": MESSAGES}
    names: list[str] = []
    async with run.openai().chat.completions.stream(**fields) as stream:
        async for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                names += [name for name, value in event.chunk.choices[0].delta.to_dict().items() if value]
        message = (await stream.get_final_completion()).choices[0].message
    extra = message.model_extra or {}
    order = list(dict.fromkeys(name for name in names if name != "role"))
    return order, message.content, extra["reasoning_content"], extra["thinking_blocks"]


async def test_live_blocks_have_the_order_of_the_message_and_of_its_replay(tmp_path: Path) -> None:
    streams: list[tuple[Any, ...]] = []

    async def run(self: Agent, run: Run) -> str:
        streams.append((await message_of(run), await response_of(run), await completion_of(run)))
        await ask(run, "held")
        return "done"

    assert await resumed_text(tmp_path, author(run), ThinkingModel("held"), ThinkingModel()) == "done"
    live, replayed = streams
    assert live == replayed
    (kinds, blocks), (begun, ended, items), completion = live
    assert kinds == ["thinking", "redacted_thinking", "text", "tool_use"]
    assert [block["type"] for block in blocks] == kinds and blocks[:2] == [*BLOCKS]
    assert begun == ["reasoning", "message"] and ended == items
    assert items[0]["summary"] == [{"type": "summary_text", "text": "I must look."}]
    assert completion == (
        ["reasoning_content", "content", "thinking_blocks"],
        "Let me look.",
        "I must look.",
        [*BLOCKS],
    )


async def test_thinking_is_no_text_of_an_answer_for_people_or_code() -> None:
    texts: list[str] = []

    async def run(self: Agent, run: Run) -> str:
        reply = await run.complete(MESSAGES, on_delta=texts.append)
        return f"{reply.content} {len(reply.thinking)}"

    async with mesh_for(author(run), model=ThinkingModel()) as mesh:
        assert (await mesh.ask("author", "Do it.")).text == "Let me look. 2"
        shown = [payload["text"] for payload in mesh.events("model.delta").payloads]
    assert texts == ["Let me ", "look."]
    assert shown == ["Let me look."]
