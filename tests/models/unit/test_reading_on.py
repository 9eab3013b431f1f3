"""A call that is given up is read on: whatever its provider has answered by then is not lost."""

from __future__ import annotations

import asyncio

import pytest

from meshwright.models.port import CallContext, ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.models.reading_on import CallGivenUp, ReadingOn


class Held:
    """A model that answers once it is let go on."""

    name = "held"

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.asked.set()
        await self.go_on.wait()
        return ModelReply(content="here", model="m")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_reply_that_comes_as_a_call_is_cut_off_counts(is_answered: bool) -> None:
    model, is_reading = Held(), asyncio.Event()

    def read_on() -> float:
        is_reading.set()
        return 60.0

    request = ModelRequest(
        model="default",
        messages=(ChatMessage(role="user", content="Say it"),),
        user="reader",
        context=CallContext(read_on=read_on),
    )
    call = asyncio.create_task(ReadingOn(model).complete(request))
    await model.asked.wait()
    call.cancel()
    await is_reading.wait()
    if is_answered:
        model.go_on.set()
        await asyncio.sleep(0)  # the reply is there, and the call has not yet noticed
    call.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await call
    cause = cancelled.value.__cause__
    assert [reply.content for reply in getattr(cause, "lost", ())] == ["here"] * is_answered
    assert isinstance(cause, CallGivenUp) is is_answered
