"""The task that every benchmark gives, and a model that answers at once."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from meshwright.core.messages import TaskRequest, Usage
from meshwright.models.port import ModelReply, ModelRequest, OnDelta

QUESTION = "What changed between the last two releases, and does anything that we rely on break?"
ANSWER = "Three things changed, none of which we rely on: the log format, one default and a deprecated flag."


class InstantModel:
    """Answers at once, or after so many seconds."""

    name = "instant"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        if self.seconds:
            await asyncio.sleep(self.seconds)
        usage = Usage(prompt_tokens=200, completion_tokens=25)
        return ModelReply(content=ANSWER, model="instant", usage=usage, cost_usd=Decimal(0))

    async def close(self) -> None:
        """There is nothing to close."""


def request() -> TaskRequest:
    """The task that every benchmark gives."""
    return TaskRequest(capability="bench", payload={"text": QUESTION})
