"""A model that calls the pager, and repeats what it says."""

from meshwright.models.port import ModelReply, ModelRequest, OnDelta, ToolCall
from meshwright.settings import Settings


class Parrot:
    """Answers without a provider."""

    def __init__(self, settings: Settings) -> None:
        self.name = "parrot"

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Page first, then say what came of it."""
        last = request.messages[-1]
        if last.role == "tool":
            return ModelReply(content=f"Squawk: {last.content}", model=self.name)
        call = ToolCall(id="1", name="page", arguments='{"reason": "disk full"}')
        return ModelReply(tool_calls=(call,), model=self.name, finish_reason="tool_calls")

    async def close(self) -> None:
        """Nothing is open."""
