"""The port to a model: one call, its reply, and how it fails. Nothing but an adapter calls a provider.

Every call carries `tags` and `user` (the agent's id). `model` is a group name; tags pick the deployment.
Adapters make exactly one attempt: retries, and the deadline, belong to whoever calls.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from pydantic import Field

from meshwright.errors import ModelError
from meshwright.messages import Plain, Usage


class ToolCall(Plain):
    """A tool that the model wants called; `arguments` is JSON text as the model wrote it, unchecked."""

    id: str
    name: str
    arguments: str = "{}"


class ChatMessage(Plain):
    """One message of a conversation. A `tool` message answers the call named by `tool_call_id`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ToolSpec(Plain):
    """A tool as the model sees it; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class ModelRequest(Plain):
    """One call to a model. `metadata` names the task, agent, tenant, attempt and step."""

    model: str = "default"
    messages: tuple[ChatMessage, ...]
    tags: tuple[str, ...] = ()
    user: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    tools: tuple[ToolSpec, ...] = ()
    response_schema: dict[str, Any] | None = None
    temperature: float = 0.0
    max_tokens: int = 1024
    timeout_seconds: float = 120.0


class ModelReply(Plain):
    """What a model answered: text, or tools that it wants called. `model` is the one that answered.

    `cost_usd` is None where nobody knows the price.
    """

    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    model: str
    usage: Usage = Usage()
    cost_usd: float | None = None
    finish_reason: str = "stop"


class Model(Protocol):
    """Answers requests. Cancelling `complete` closes its connection."""

    name: str
    """What answers: `offline`, `http http://...`, `router litellm_config.yaml`; never holds a key."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Make one attempt. Raises ModelError, whose `retryable` says whether another may succeed."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class ModelUnavailable(ModelError):
    """No connection, or the server is at fault or overloaded: another try may succeed."""

    status = 503
    retryable = True


class RateLimited(ModelError):
    """The provider wants us to wait; `retry_after_seconds` where it said for how long."""

    status = 429
    retryable = True

    def __init__(self, message: str, *, remedy: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.retry_after_seconds = retry_after_seconds


class ModelTimeout(ModelError):
    """No reply in time."""

    status = 504
    retryable = True


class Unauthorized(ModelError):
    """The provider refused our credentials, or there are none."""

    status = 502


class ModelRefused(ModelError):
    """The provider rejected the request itself: the same request would be rejected again."""

    status = 502


class ContextTooLong(ModelRefused):
    """The messages do not fit the model's context window."""
