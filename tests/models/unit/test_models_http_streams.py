"""Streams of the HTTP adapter, however they are cut and wherever they break."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshwright.core.errors import ModelError
from meshwright.models.errors import (
    ContentRefused,
    ContextTooLong,
    ModelUnavailable,
    RateLimited,
    Unauthorized,
)
from meshwright.models.server import HttpModel
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_requests import KEY, PROMPT, request


@pytest.fixture
async def model(fake: FakeProvider) -> AsyncIterator[HttpModel]:
    model = HttpModel(fake.url, KEY)
    yield model
    await model.close()


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
        ([stream_of({"error": {"code": "context_length_exceeded"}})], ContextTooLong),
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


async def test_content_in_parts_is_put_together(fake: FakeProvider, model: HttpModel) -> None:
    parts: list[Any] = [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}],
        [{"type": "text", "text": "It "}, {"type": "text", "text": "is."}],
    ]
    fake.faults.append(Fault(kind="raw", pieces=[stream_of(*(chunk(content=part) for part in parts), END)]))
    pieces: list[str] = []
    reply = await model.complete(request(), pieces.append)
    assert (reply.content, pieces) == ("It is.", ["It is."])


async def test_a_stream_that_breaks_off_says_what_came_of_it(fake: FakeProvider, model: HttpModel) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "look", "arguments": '{"word": "Zür"}'}}
    begun = stream_of(chunk(content="abc"), chunk(tool_calls=[call])).removesuffix(b"data: [DONE]\n\n")
    refused = b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
    for piece, lost in ((begun, [6]), (begun + refused, [6]), (refused, [])):
        fake.faults.append(Fault(kind="raw", pieces=[piece]))
        with pytest.raises(ModelError) as failed:
            await model.complete(request(), [].append)
        found = [(each.usage.completion_tokens, each.cost_source) for each in failed.value.lost]
        assert found == [(tokens, "estimated") for tokens in lost]
