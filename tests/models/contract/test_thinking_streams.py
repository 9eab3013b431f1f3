"""Thinking in streamed calls: in its place, never twice, and not as text to readers of text alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import STREAM_RESTART, ModelReply, OnDelta
from meshwright.models.thinking import Thinking, ThinkingChunks, read_thinking, thinking_callback
from meshwright.models.wire.dialects import DIALECTS
from meshwright.models.wire.stream import StreamedCall

FIRST: dict[str, Any] = {"type": "thinking", "thinking": "I look.", "signature": "c2ln"}
LATER: dict[str, Any] = {"type": "thinking", "thinking": "Again.", "signature": "c2ln"}
HELLO: Any = [{"role": "user", "content": "Hello?"}]


def call_of(pieces: Sequence[str | Thinking], *blocks: dict[str, Any], hold: bool = False) -> StreamedCall:
    """A call whose pieces come one by one; its text is that after the last restart."""

    async def complete(on_delta: OnDelta) -> ModelReply:
        content, take_thinking = "", thinking_callback(on_delta)
        assert take_thinking is not None
        for piece in pieces:
            if isinstance(piece, Thinking):
                take_thinking(piece)
            else:
                on_delta(piece)
                content = content + piece if piece else ""
            await asyncio.sleep(0.001)
        return ModelReply(model="m", content=content, thinking=blocks)

    return StreamedCall(complete, holds_thinking=hold)


async def pieces_of(call: StreamedCall) -> list[str | Thinking]:
    return [piece async for piece in call.pieces()]


async def events_of(path: str, call: StreamedCall) -> list[dict[str, Any]]:
    body = {"model": "default", "max_tokens": 9, "messages": HELLO, "input": HELLO, "stream": True}
    reading = DIALECTS[path].read({name: body[name] for name in body if name != _OTHERS.get(path)}, {})
    frames = b"".join([frame async for frame in reading.frames(call)])
    return [json.loads(line[6:]) for line in frames.splitlines() if line.startswith(b"data: {")]


_OTHERS = {"/v1/messages": "input", "/v1/responses": "messages", "/v1/chat/completions": "input"}


async def test_thinking_comes_as_it_is_thought_or_in_whole_blocks() -> None:
    said = [Thinking("I "), Thinking("look."), Thinking(block=FIRST), "Yes."]
    assert await pieces_of(call_of(said, FIRST)) == said
    assert await pieces_of(call_of(said, FIRST, hold=True)) == said[2:]
    assert await pieces_of(call_of([], FIRST)) == [Thinking(block=FIRST)]


async def test_an_attempt_that_fails_while_it_thinks_is_repeated_unseen_only_if_nothing_was_sent() -> None:
    said = [Thinking("I "), STREAM_RESTART, Thinking("I look."), Thinking(block=FIRST), "Yes."]
    assert await pieces_of(call_of(said, FIRST, hold=True)) == [Thinking(block=FIRST), "Yes."]
    with pytest.raises(ModelUnavailable, match="broke off"):
        await pieces_of(call_of(said, FIRST))


async def test_thinking_after_the_text_has_begun_comes_behind_it() -> None:
    said = [Thinking("I look."), Thinking(block=FIRST), "Yes", Thinking("Again."), Thinking(block=LATER), "."]
    events = await events_of("/v1/messages", call_of(said, FIRST, LATER))
    starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "thinking"]
    *_, last = await events_of("/v1/responses", call_of(said, FIRST, LATER))
    items = last["response"]["output"]
    assert [item["type"] for item in items] == ["reasoning", "message", "reasoning"]
    assert len({item["id"] for item in items}) == 3


async def test_thinking_without_a_block_ends_where_the_text_begins() -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    events = await events_of("/v1/messages", call_of([Thinking("Hm."), "Yes."], block))
    kinds = [(event["type"], event.get("index")) for event in events if "index" in event]
    names = ("content_block_start", "content_block_delta", "content_block_stop")
    assert kinds == [(name, index) for index in (0, 1) for name in names]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
def test_a_conversation_repeats_the_blocks_that_a_provider_has_signed(path: str) -> None:
    reply = ModelReply(model="m", content="Yes.", thinking=(FIRST, {"type": "thinking", "thinking": "Hm."}))
    body = {"model": "default", "max_tokens": 9, "messages": HELLO, "input": HELLO}
    fields = {name: body[name] for name in body if name != _OTHERS.get(path)}
    whole = DIALECTS[path].read(fields, {}).whole(reply)
    if path == "/v1/responses":
        fields["input"] = [*HELLO, *whole["output"]]
    elif path == "/v1/messages":
        fields["messages"] = [*HELLO, {"role": "assistant", "content": whole["content"]}]
    else:
        fields["messages"] = [*HELLO, whole["choices"][0]["message"]]
    assert DIALECTS[path].read(fields, {}).request.messages[-1].thinking == (FIRST,)
    assert reply.message().thinking == (FIRST,)


@pytest.mark.parametrize(
    ("deltas", "pieces", "blocks"),
    [
        (
            [{"reasoning_content": "I "}, {"reasoning": "look."}],
            [Thinking("I "), Thinking("look.")],
            [{"type": "thinking", "thinking": "I look.", "signature": ""}],
        ),
        (
            [
                {"reasoning_content": "I look.", "thinking_blocks": [{**FIRST, "signature": None}]},
                {"thinking_blocks": [{**FIRST, "thinking": ""}]},
                {"thinking_blocks": [{"type": "redacted_thinking", "data": "b3Bh"}]},
            ],
            [Thinking("I look.")],
            [FIRST, {"type": "redacted_thinking", "data": "b3Bh"}],
        ),
        ([{"reasoning_content": 7, "thinking_blocks": [None, {"type": "odd"}]}], [], []),
    ],
)
def test_thinking_of_openais_wire_is_put_together(
    deltas: list[Any], pieces: list[Thinking], blocks: list[Any]
) -> None:
    taken: list[Thinking] = []
    chunks = ThinkingChunks(lambda text, block: taken.append(Thinking(text, block)))
    for delta in deltas:
        chunks.add(delta)
    assert chunks.end() == blocks
    assert [piece for piece in taken if piece.block is None] == pieces
    assert [piece.block for piece in taken if piece.block is not None] == blocks
    assert [*read_thinking({"thinking_blocks": blocks})] == blocks
