"""A model that calls the pager, and repeats what it says."""

from meshwright.component import ModelReply, ModelRequest, ModelUnavailable, OnDelta, Settings, ToolCall


class Parrot:
    """Answers without a provider."""

    def __init__(self, settings: Settings) -> None:
        self.name = "parrot"
        self.has_failed = False

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Page first, then say what came of it; without tools, say what comes before the question."""
        last = request.messages[-1]
        if "flaky" in last.text and not self.has_failed:
            self.has_failed = True
            raise ModelUnavailable("The parrot sleeps")
        if not request.tools:
            known = "\n".join(message.text for message in request.messages[:-1])
            return ModelReply(content=known, model=self.name)
        if last.role == "tool":
            return ModelReply(content=f"Squawk: {last.content}", model=self.name)
        call = ToolCall(id="1", name="page", arguments='{"reason": "disk full"}')
        return ModelReply(tool_calls=(call,), model=self.name, finish_reason="tool_calls")

    async def close(self) -> None:
        """Nothing is open."""
