"""A limited call is tried again by one owner: the mesh, or its client where the mesh did not wait."""

import asyncio
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from meshwright.models.circuits import MAX_TRIES
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.model_api import HELLO, Service, service

BUSY = {"retry-after-ms": "20", "retry-after": "1"}


async def ask_as_openai(there: Service) -> None:
    async with there.client() as client:
        await client.chat.completions.create(model="default", messages=HELLO)


async def stream_as_openai(there: Service) -> None:
    async with there.client() as client:
        await client.responses.create(model="default", input="Hello?", stream=True)


async def ask_as_anthropic(there: Service) -> None:
    async with anthropic.AsyncAnthropic(base_url=there.url, api_key="none") as client:
        await client.messages.create(model="default", max_tokens=9, messages=HELLO)


ERRORS: Any = (openai.RateLimitError, openai.InternalServerError, anthropic.APIStatusError)


@pytest.mark.parametrize("ask", [ask_as_openai, stream_as_openai, ask_as_anthropic])
async def test_a_client_does_not_repeat_what_the_mesh_has_tried_again(
    fake: FakeProvider, tmp_path: Path, ask: Any
) -> None:
    fake.faults.extend(Fault(status=429, headers=BUSY) for _ in range(20))
    async with service(tmp_path, model="auto", models={"base_url": fake.url}) as there:
        with pytest.raises(ERRORS):
            await ask(there)
    assert len(fake.calls) == MAX_TRIES


async def test_clients_at_once_ask_no_more_than_their_own_calls_may(
    fake: FakeProvider, tmp_path: Path
) -> None:
    fake.faults.extend(Fault(status=429, headers=BUSY) for _ in range(200))
    async with service(tmp_path, model="auto", models={"base_url": fake.url}) as there:
        asked = [ask_as_openai(there) for _ in range(20)]
        assert all(
            isinstance(error, ERRORS) for error in await asyncio.gather(*asked, return_exceptions=True)
        )
    assert 20 <= len(fake.calls) <= 20 * MAX_TRIES


async def test_a_client_waits_where_the_mesh_does_not(fake: FakeProvider, tmp_path: Path) -> None:
    fake.faults.append(Fault(status=429, headers={"retry-after": "30"}))
    body = {"model": "default", "messages": HELLO}
    async with (
        service(tmp_path, model="auto", models={"base_url": fake.url}) as there,
        there.session.post("/v1/chat/completions", json=body) as answer,
    ):
        assert (answer.status, answer.headers["retry-after"]) == (429, "30")
        assert "x-should-retry" not in answer.headers
    assert len(fake.calls) == 1
