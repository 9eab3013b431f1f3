"""The port to a model: one call and its reply. Nothing but an adapter calls a provider.

Every call carries `tags` and `user` (the agent's id). `model` is a group name; tags pick the deployment.
Adapters make exactly one attempt: retries and the deadline belong to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args

from msgspec import UNSET, field
from msgspec.structs import asdict, force_setattr, replace

from meshwright.core.encoding import Struct, kept
from meshwright.core.files import File
from meshwright.core.messages import TaskBudget, Usage
from meshwright.core.model_events import ModelCalled
from meshwright.core.money import Amount, Budget, OnEmpty, Price, exact
from meshwright.models.thinking import signed_blocks
from meshwright.models.written import WrittenMessages

if TYPE_CHECKING:
    from meshwright.models.config import LiteLLMConfig

_UNSTATED_MAX_TOKENS = 4096  # of a reply, which budgets allow for where the caller names no limit
CostSource = Literal["priced", "reported", "estimated", "unknown"]
"""The source of a cost: our price list for counted tokens, the server's report, our price list for estimated
tokens, or nothing."""

CHARGE = "tool:"
"""Begins the `model` of what a tool spent, which the ledger has like the calls of models."""

ANTHROPIC_PARAMS = "anthropic"
"""The parameter of a request whose fields go to providers with Anthropic's API, and to no others."""

OutputMode = Literal["native", "tool", "prompted"]
"""How a model is asked for an answer in a schema: by `response_format`, by a tool that it must call, or in
the prompt."""
OUTPUT_MODES: tuple[OutputMode, ...] = get_args(OutputMode)


class ToolCall(Struct, omit_defaults=True):
    """A tool that the model wants called."""

    id: str
    """The provider's id of the call, by which its result is sent back."""
    name: str
    """The name of the tool."""
    arguments: str = kept(default="{}")
    """JSON text as the model wrote it, unchecked."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of the call that its provider wants back, such as `extra_content` of Gemini, unread."""


class ChatMessage(Struct, omit_defaults=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    """The author. A `tool` message is the result of a call."""
    content: str = kept(default="")
    """Its text."""
    parts: tuple[dict[str, Any], ...] = ()
    """The parts behind the text: images, files, audio, and text between them, each as OpenAI writes it
    (`{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`)."""
    tool_calls: tuple[ToolCall, ...] = kept(default=())
    """The calls that an assistant's message asks for."""
    tool_call_id: str | None = kept(default=None)
    """The call that a `tool` message answers. None in other messages."""
    thinking: tuple[dict[str, Any], ...] = ()
    """The blocks of thinking that came with the reply which an assistant's message repeats, unchanged."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of the message that its provider wants back, such as `reasoning_content`, unread."""
    answered_by: str = ""
    """The model whose reply it is, which alone gets the extra fields; any, if that is not known."""

    @property
    def text(self) -> str:
        """All of its text, without what else its parts are."""
        return (
            "\n".join([*filter(None, [self.content]), *part_texts(self.parts)])
            if self.parts
            else self.content
        )


def part_texts(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The text of each part that is text."""
    return [str(part.get("text") or "") for part in parts if part.get("type") == "text"]


class ToolSpec(Struct, omit_defaults=True):
    """A tool as the model sees it."""

    name: str
    """The name by which the model calls it."""
    description: str
    """Its purpose, for the model."""
    parameters: dict[str, Any]
    """The JSON schema of its arguments, an object."""
    strict: bool | None = None
    """Whether the model is held to the schema. None: the provider decides."""


class Settlement(Struct, omit_defaults=True):
    """The booking of a call in its budgets: `amount`, and whether it is estimated.

    `op` and `call` name the reservation, `tags` are copied from the call, since accounts go by them.
    """

    op: str
    call: str
    amount: Amount
    estimated: bool = False
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        exact(self, "amount", self.amount)


class Call(Struct):
    """One call of a model, as the ledger has it. `user` is the agent that called.

    `error` is the code of the error that ended it, `reason` its message; for an answered call, the usage that
    was not believed. `cost_usd` is None if the cost is unknown, and 0 for an answer from a cache, which
    `saved_usd` would have cost. `attempts` counts tries within the call, `attempt` numbers the attempt of the
    task. A call is `cut` if its process ended first. `prompt` is the version of its prompt, None for a call
    of a client. `failed_at` are the deployments whose attempts failed in it, one for each, `failed_with` the
    codes of their errors. `passed_over` names fields of a client's request that had no effect. `settlement`
    is its booking in budgets, where any reserved money for it; no event has it.
    """

    call_id: str = ""
    model: str = ""
    deployment: str | None = None
    group: str = ""
    tags: tuple[str, ...] = ()
    user: str = ""
    thread_id: str | None = None
    tenant_id: str | None = None
    usage: Usage = Usage()
    cost_usd: Amount | None = None
    cost_source: CostSource = "unknown"
    cache_hit: bool = False
    saved_usd: Amount | None = None
    attempts: int = 1
    outcome: Literal["ok", "failed", "cancelled", "cut"] = "ok"
    error: str | None = None
    reason: str | None = None
    tool_calls: tuple[str, ...] = ()
    latency_ms: float = 0.0
    finish_reason: str | None = None
    step: int | None = None
    attempt: int | None = None
    prompt: str | None = None
    failed_at: tuple[str, ...] = ()
    failed_with: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    settlement: Settlement | None = None

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)
        if self.saved_usd is not None:
            exact(self, "saved_usd", self.saved_usd)

    def payload(self) -> ModelCalled:
        """The payload of its event."""
        fields = asdict(self)
        del fields["settlement"]  # accounts alone read it
        return ModelCalled(**fields, duration_ms=self.latency_ms)


OnCall = Callable[[Call], None]
"""Takes a call that has ended."""


class CallContext(Struct, omit_defaults=True):
    """The caller and the purpose of a call, for budgets, ledger and cache. Unset fields are left out of JSON.

    `budget_usd` limits the task itself, `on_empty` says what happens then. `budgets_above` limit the tasks
    that it works for, `budgets` the caller's key, `key_id`. `record` takes each call once, however it ends;
    without it the ledger publishes the call by itself. If calls wait for money, a higher `priority` goes
    first, then the earlier `since`. `path` names the step in its journal; `take_cut` says once how many of
    its calls earlier processes made and did not live to record. `read_on` says for how many seconds a call
    that is cancelled is read on, so that its cost is known; None: its caller did not give it up. `prompt` is
    the version of the request's prompt, `traceparent` the span above the call. `is_own_endpoint`: the tenant
    itself has chosen the address that answers. `written` is what earlier calls wrote of the conversation.
    """

    budget_usd: Amount | None = None
    budgets_above: tuple[TaskBudget, ...] = ()
    budgets: tuple[Budget, ...] = ()
    task_id: str | None = None
    thread_id: str | None = None
    agent_id: str | None = None
    tenant_id: str = kept(default="default")
    generation: int | None = None
    attempt: int | None = None
    step: int | None = None
    purpose: str | None = None
    key_id: str | None = None
    record: OnCall | None = None
    priority: int = 5
    since: datetime | None = None
    on_empty: OnEmpty = "fail"
    path: str | None = None
    take_cut: Callable[[], int] | None = None
    read_on: Callable[[], float | None] | None = None
    prompt: str | None = None
    traceparent: str | None = None
    is_own_endpoint: bool = False
    passed_over: tuple[str, ...] = ()
    written: WrittenMessages | None = None

    def __post_init__(self) -> None:
        if self.budget_usd is not None:
            exact(self, "budget_usd", self.budget_usd)

    @property
    def has_budgets(self) -> bool:
        """Whether its calls are charged to budgets of their own, beside the budgets of the mesh."""
        return bool(self.budget_usd is not None or self.budgets_above or self.budgets)

    def model_dump(self, *, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        """Its fields as plain data, without what takes the call, and its place among others."""
        return Struct.model_dump(replace(self, **_OF_THE_RUN), mode=mode)

    def metadata(self) -> dict[str, Any]:
        """The ids of a call for its provider, without budgets."""
        return replace(self, budget_usd=None, budgets_above=(), budgets=()).model_dump()


_OF_THE_RUN: dict[str, Any] = {
    **dict.fromkeys(("record", "since", "path", "take_cut", "read_on", "prompt", "traceparent")),
    "written": None,
    **{"priority": 5, "on_empty": "fail", "is_own_endpoint": False, "passed_over": ()},
}
"""Fields of a context that change no answer: they stay in the process."""


class ModelRequest(Struct, kw_only=True):
    """One call to a model."""

    model: str = "default"
    """The group of models, or a model that code named outright."""
    messages: tuple[ChatMessage, ...]
    """The conversation so far. Empty where `inputs` are to be embedded."""
    tags: tuple[str, ...] = ()
    """The tags that pick a deployment of the group."""
    user: str
    """The agent, or the key, that the call is made for. Providers get it as their `user`."""
    context: CallContext = field(default=CallContext(), name="metadata")  # as journals have it
    """The caller and the purpose of the call, for budgets, ledger and cache."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools that the model may call."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    """Whether the model may (`auto`), must (`required`) or must not (`none`) call tools."""
    response_schema: dict[str, Any] | None = None
    """The JSON schema of a structured answer. None: text."""
    response_format: dict[str, Any] | None = None
    """The format as a caller wrote it, in place of the one made of the schema. None without one."""
    output_mode: OutputMode = "native"
    """How the model is asked first for an answer in the `response_schema`."""
    temperature: float | None = 0.0
    """The temperature. None: the provider's default."""
    max_tokens: int | None = 1024
    """The tokens that the reply may have. None: the provider's default."""
    params: dict[str, Any] = field(default_factory=dict)
    """Further parameters in OpenAI's words (`top_p`, `stop`, `reasoning_effort`), sent to the provider as
    they are."""
    inputs: tuple[str | tuple[int, ...], ...] = ()
    """Texts, or their tokens, to embed: such a request has no messages."""
    timeout_seconds: float = 120.0
    """Seconds that the whole call may take, retries included."""
    cache: bool = True
    """Whether an answer from a cache will do, if the mesh has one."""

    def __post_init__(self) -> None:
        if type(self.temperature) is int:  # 1 and 1.0 are one request, to journals and caches
            force_setattr(self, "temperature", float(self.temperature))
        if type(self.timeout_seconds) is int:
            force_setattr(self, "timeout_seconds", float(self.timeout_seconds))

    @property
    def output_limit(self) -> int:
        """The tokens that the reply may have, as far as was said: what budgets reserve."""
        if self.inputs:
            return 0
        return _UNSTATED_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def model_dump(self, *, mode: Literal["json", "python"] = "python") -> dict[str, Any]:
        """Its fields as plain data, without fields that change no answer."""
        return Struct.model_dump(self.asked(), mode=mode)

    def asked(self, **changes: Any) -> ModelRequest:
        """The request without what changes no answer: by it a step is known, and no call is made of it.

        `changes` are fields that it has instead.
        """
        context = replace(self.context, **_OF_THE_RUN)
        optional = ("response_format", "params", "inputs")  # JSON leaves them out where they are not set
        left_out = {name: UNSET for name in optional if not getattr(self, name)}
        return replace(self, context=context, output_mode=UNSET, **left_out, **changes)


UNSTATED = "unknown"
"""The `finish_reason` of a reply that ended without one."""


class ModelReply(Struct, omit_defaults=True, kw_only=True):
    """The answer of a model: text, files, or tools that it wants called."""

    content: str = kept(default="")
    """The text."""
    tool_calls: tuple[ToolCall, ...] = kept(default=())
    """The calls of tools that the model asks for."""
    thinking: tuple[dict[str, Any], ...] = ()
    """The provider's own blocks of thinking, which it wants back with the calls of tools."""
    files: tuple[File, ...] = ()
    """Files that the model made."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of its message that the provider wants back, such as `reasoning_content`, unread."""
    answered_by: str = ""
    """The model that was asked for it, which alone gets the extra fields back."""
    model: str
    """The model that answered."""
    deployment: str | None = kept(default=None)
    """The deployment of the group that answered. None if it is not known."""
    usage: Usage = kept(default=Usage())
    """The tokens of the call."""
    cost_usd: Amount | None = kept(default=None)
    """US dollars. None if the price is unknown, 0 for an answer from a cache."""
    cost_source: CostSource = kept(default="unknown")
    """The source of the cost: `priced` by the mesh's prices, `reported` by the provider, `estimated` where
    the provider did not count all tokens (the ledger estimates what is missing), or `unknown`."""
    cache_hit: bool = kept(default=False)
    """Whether the answer comes from a cache."""
    saved_usd: Amount | None = kept(default=None)
    """US dollars that the answer from a cache would have cost. None for other answers."""
    attempts: int = kept(default=1)
    """The attempts of the whole call, the successful one included."""
    latency_ms: float = kept(default=0.0)
    """Milliseconds until the whole reply was there."""
    finish_reason: str = kept(default="stop")
    """Why it ended: `stop`, `length`, `tool_calls`, ...; `unknown` if the server did not say."""
    embeddings: tuple[tuple[float, ...], ...] = ()
    """The vectors of the request's `inputs`, in their order."""
    usage_problem: str = ""
    """The numbers of tokens that a provider reported and that cannot be. "" if there are none."""
    lost: tuple[ModelReply, ...] = ()
    """Answers before this one that a policy held back, or that broke off, without their words. The ledger
    adds their tokens and cost."""
    failed_at: tuple[str, ...] = ()
    """The deployments whose attempts failed before it."""
    failed_with: tuple[str, ...] = ()
    """The codes of their errors, in the same order."""

    def __post_init__(self) -> None:
        exact(self, "cost_usd", self.cost_usd)
        if self.saved_usd is not None:
            exact(self, "saved_usd", self.saved_usd)

    def message(self) -> ChatMessage:
        """The reply as a message of the conversation that goes on: no API takes its files back."""
        thinking = signed_blocks(self.thinking)
        return ChatMessage(
            role="assistant",
            content=self.content,
            tool_calls=self.tool_calls,
            thinking=thinking,
            extra=self.extra,
            answered_by=self.answered_by,
        )


STREAM_RESTART = ""
"""The piece of a streamed answer that says: forget what came, another attempt begins."""


OnDelta = Callable[[str], None]
"""Takes a streamed answer's next piece of text, or STREAM_RESTART; called on the event loop, and must not
block. One that has a method `thinking` takes thinking as well."""


class Model(Protocol):
    """Answers requests. Cancelling `complete` closes its connection."""

    name: str
    """`offline`, `http http://...`, `router litellm_config.yaml`; never holds a key."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Make one attempt; with `on_delta` its text is streamed, and the reply is still the whole of it.

        Thinking may go to `thinking_callback(on_delta)`: a reader that gets none takes it from the reply.

        Raises ModelError, whose `retryable` says whether another may succeed.
        """

    async def close(self) -> None:
        """Give back connections."""


class ModelWindow(NamedTuple):
    """The most tokens that a model reads and writes in one call; None if unknown."""

    input: int | None = None
    output: int | None = None


class GuessedWindow(ModelWindow):
    """The window by the name of a model, at a server that may serve it with another."""


class GivenModel(NamedTuple):
    """The model in place of the choice by settings; None without one."""

    model: Model | None


class ModelWindows(Protocol):
    """Knows window and price of each agent's model, which may be configured for a tenant."""

    def highest_price(
        self, model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str, prompt_tokens: int
    ) -> Price | None:
        """The highest price of a call with a prompt of that size; None if unknown."""

    def model_window(self, model: str, tags: tuple[str, ...], tenant_id: str, agent_id: str) -> ModelWindow:
        """The window of a model with some tags, for an agent of a tenant."""


class PriceList(Protocol):
    """Says what calls cost; None where it does not know."""

    def window(self, model: str, tags: tuple[str, ...]) -> ModelWindow:
        """The smallest window of the deployments that a call is for."""

    def upper_bound(self, request: ModelRequest, prompt_tokens: int | None = None) -> Price | None:
        """The highest price of all that could answer a request."""

    def called_model(self, request: ModelRequest) -> str:
        """The model by whose name a call is priced."""

    def reply_cost(self, reply: ModelReply, request: ModelRequest) -> Decimal | None:
        """The cost of a reply."""


class Wrapper:
    """A model around another."""

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.model = model

    async def close(self) -> None:
        """Close the model."""
        await self.model.close()


ModelPosition = Literal["request", "ledger", "cache", "retry", "attempt"]
"""A position in the chain that every call passes, from the outermost to the one next to the provider."""
POSITIONS: tuple[ModelPosition, ...] = get_args(ModelPosition)


class ModelWrapper(NamedTuple):
    """Wraps the model at a position, around the mesh's own part of that name.

    At `request` it gets each request of an agent or a client once; at `ledger` each form that a request is
    adapted to, at `cache` each that the ledger books, at `retry` each that the cache does not answer; at
    `attempt` each attempt.
    """

    position: ModelPosition
    """Its place in the chain of every call."""
    wrap: Callable[[Model], Model]
    """Makes the model around the given one. Called once; its result is closed with the mesh."""


class Adapter(Wrapper):
    """A model that knows its deployments: the base of a mesh's model, below all wrappers.

    This one is around a model that says nothing of itself, and answers any name.
    """

    kind = "model"
    """Its name in the setting `models.adapter`: `offline`, `http`, `router`."""
    config: LiteLLMConfig | None = None
    """The file behind it, if it calls what a file says."""

    def complete(
        self, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> Coroutine[Any, Any, ModelReply]:
        """Make one attempt. Raises ModelError."""
        return self.model.complete(request, on_delta)

    def groups(self) -> frozenset[str] | None:
        """The names that callers may give as `model`; None where only its server knows."""
        return frozenset({"default", "quality", "fast"})

    def prices(self, default: Price | None) -> PriceList | None:
        """The prices of its calls, `default` if unknown; None: by the names of the models that answer."""
        return None

    async def listed(self) -> list[dict[str, Any]] | None:
        """The deployments that its server has, as litellm_config.yaml has them; None without a server."""
        return None

    def alone(self, group: str | None, names: Collection[str]) -> dict[str, Model]:
        """Its deployments by name, of a group or all, for calls without fallbacks; they need no closing.

        `names` are its server's groups. Raises ConfigError where there is nothing to call.
        """
        return {group or "default": self}
