"""Streams of OpenAI's API over the mesh's models, by the real `openai` client."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import STREAM_RESTART, ModelReply, ModelRequest, OnDelta
from meshwright.testing import ScriptedModel, tool_call
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, WEATHER, Service, service


@pytest.fixture
async def there(fake: FakeProvider, tmp_path: Path) -> AsyncIterator[Service]:
    async with service(tmp_path, model="http", litellm_base_url=fake.url) as running:
        yield running


async def test_an_answer_is_streamed_in_pieces_with_its_tokens_at_the_end(
    there: Service, fake: FakeProvider
) -> None:
    async with there.client() as client:
        stream = await client.chat.completions.create(
            model="fast", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    pieces = [
        chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 1
    assert "".join(pieces) == "fake-openai answers, and is no model: Hello?"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 18
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


async def test_tool_calls_come_at_the_end_of_a_stream(tmp_path: Path) -> None:
    calls = [tool_call("weather", city="Bern"), tool_call("weather", city="Basel")]
    tool: Any = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    async with (
        service(tmp_path, answering=ScriptedModel(calls)) as there,
        there.client() as client,
        client.chat.completions.stream(model="fast", messages=HELLO, tools=[tool]) as stream,
    ):
        reply = await stream.get_final_completion()
    made = reply.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in made] == ["Bern", "Basel"]
    assert reply.choices[0].finish_reason == "tool_calls"


async def test_a_client_that_leaves_a_stream_closes_the_providers_connection(
    there: Service, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(kind="stall"))
    async with there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        await anext(aiter(stream))
        await stream.close()
        await asyncio.wait_for(fake.abandoned.wait(), 60)
    assert len(fake.calls) == 1


class Breaking:
    """A model whose stream breaks off in the middle, and whose next attempt restarts."""

    name = "breaking"

    def __init__(self, *second: str) -> None:
        self.second = second

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        assert on_delta is not None
        for text in ("Once ", "upon ", STREAM_RESTART, *self.second):
            on_delta(text)
            await asyncio.sleep(0)
        return ModelReply(content="".join(self.second), model=self.name)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "second", [("Once ", "upon ", "a time"), ("On", "ce upon a", " time"), ("Once upon a time",)]
)
async def test_a_stream_goes_on_where_another_attempt_says_the_same(
    tmp_path: Path, second: tuple[str, ...]
) -> None:
    async with service(tmp_path, answering=Breaking(*second)) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Once upon a time"


async def test_a_stream_ends_with_an_error_where_another_attempt_says_otherwise(tmp_path: Path) -> None:
    async with service(tmp_path, answering=Breaking("There ", "was")) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="All providers unavailable"):
            async for _ in stream:
                pass


async def test_a_stream_that_dies_in_the_middle_ends_with_an_error(
    tmp_path: Path, fake: FakeProvider
) -> None:
    class Dying(Breaking):
        async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
            assert on_delta is not None
            on_delta("Once ")
            raise ModelUnavailable("the connection broke")

    async with service(tmp_path, answering=Dying()) as there, there.client() as client:
        stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="All providers unavailable"):
            async for _ in stream:
                pass
