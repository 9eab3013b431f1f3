"""The part of a `Run` for agents of other frameworks: raw calls, clients of SDKs, tools as functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import cached_property, partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from meshwright.agents.run.author import UnawaitedCalls, noted
from meshwright.agents.run.calls import ModelCalls
from meshwright.agents.run.completions import CallQuestion, Shape, ToolChoice, make_request, request_of_run
from meshwright.agents.run.functions import tool_function
from meshwright.agents.run.preparation import CallSettings, call_settings
from meshwright.agents.run.replies import StreamedPieces
from meshwright.agents.run.sdk_errors import RUN_HOST
from meshwright.agents.run.state import RunState
from meshwright.agents.run.steps import RunSteps
from meshwright.agents.run.tool_calls import read_value
from meshwright.agents.run.tool_chain import call_tool
from meshwright.agents.run.transport import HttpPackage, import_library, run_transport
from meshwright.agents.run.wire import RunWire, WireStep, past_frameworks, why_closed
from meshwright.agents.tools.tool import Tool
from meshwright.core.errors import AgentError, MeshError
from meshwright.core.ids import derived_id
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest, OnDelta, ToolCall, ToolSpec
from meshwright.money.keys import RUN_PREFIX

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

_URL = f"http://{RUN_HOST}"
_KEY = f"{RUN_PREFIX}client"
"""SDKs want a key. The run itself is what lets a call in, and a mesh refuses this one."""


class RunClients(RunSteps):
    """Calls of models and tools by code that the mesh does not know, each a step of the run.

    Such a step is known by its request, and counted among equal ones: it may be taken in any asyncio task,
    side by side with others. The code between two steps must be repeatable.
    """

    def __init__(self, state: RunState, calls: ModelCalls, unawaited: UnawaitedCalls) -> None:
        super().__init__(state, unawaited)
        self._calls = calls
        self.has_clients = False
        """Whether the code took a client or a transport of the run."""
        self.refusal: MeshError | None = None
        """The error of the last call by a client of the run, if it failed, as the mesh raised it."""
        self._ask_counts: dict[str, int] = {}
        """How often a framework has asked the same."""

    @noted
    async def complete(
        self,
        messages: Sequence[ChatMessage | Mapping[str, Any]],
        *,
        tools: Sequence[ToolSpec | Mapping[str, Any]] = (),
        shape: Shape | None = None,
        model: str = "",
        tags: Sequence[str] = (),
        tool_choice: ToolChoice = "auto",
        temperature: float | None = None,
        max_tokens: int | None = None,
        params: Mapping[str, Any] | None = None,
        on_delta: OnDelta | None = None,
    ) -> ModelReply:
        """Make one call of a model as a paid step: these messages alone, without prompt file and memory.

        Messages are `ChatMessage`, tools `ToolSpec`, or dicts as OpenAI's API has them. With a
        `shape`, a pydantic model or a JSON schema, the reply's `content` is JSON, which you check. `model`
        and `tags` are by default those of the agent; other settings that you leave out are the provider's.
        `on_delta` takes the text in pieces as it comes, "" where another attempt begins it again, and all at
        once where the step is replayed or the model does not stream.

        A call that ended is never made again: when the run is resumed it returns the same reply, or raises
        the same error. Raises ModelError; LimitReached where tokens, money or time of the run are used up;
        InvalidInput with the field of an argument that is wrong. If the provider or the money is away
        the run waits, and the call is made again.
        """
        if on_delta is not None and (not callable(on_delta) or iscoroutinefunction(on_delta)):
            raise AgentError(
                f"run.complete is given the on_delta {on_delta!r}", remedy="Give a function that is not async"
            )
        settings = {"temperature": temperature, "max_tokens": max_tokens, "params": params}
        fields = {"model": model, "tags": tags, "tool_choice": tool_choice}
        request = make_request(messages, tools, shape, **fields, **settings)
        pieces: list[str] = []

        def take(text: str) -> None:
            pieces.append(text)
            if on_delta is not None:
                on_delta(text)

        ask = partial(self._ask, request, CallQuestion.from_request(request), on_delta and take)
        reply = await self._by_request(ask, lambda: pieces, reads_on=on_delta is None)
        if on_delta is not None and reply.content and not pieces:
            on_delta(reply.content)
        return reply

    def _ask(
        self, request: ModelRequest, question: CallQuestion, on_delta: OnDelta | None
    ) -> Coroutine[Any, Any, ModelReply]:
        own_request = request_of_run(self._state, self._settings, request)
        return self._calls.complete(own_request, self._settings.version, question, on_delta)

    @cached_property
    def _settings(self) -> CallSettings:
        return call_settings(self._state, needs_prompt=False)

    async def _by_request(
        self,
        work: Callable[[], Coroutine[Any, Any, Any]],
        streamed: Callable[[], Sequence[Any]] = lambda: (),
        *,
        reads_on: bool = False,
    ) -> Any:
        """Do work in an asyncio task of its own, whose steps are known by what they ask for."""
        if which := why_closed(self._journal):
            remedy = "Take run and its functions from the arguments of each run"
            raise AgentError(f"The run of this call {which}, so it is not made", remedy=remedy)
        if not self._journal.is_on_loop:
            remedy = "Await it in `run`; code in a thread takes a sync client with run.transport()"
            raise AgentError("A call of the run is made on another event loop", remedy=remedy)
        return await self._journal.requested_calls.make(work, streamed, reads_on=reads_on)

    @property
    def wire(self) -> RunWire:
        """The run as an HTTP server of models: what `transport` and the clients send their requests to."""
        return RunWire(self._journal, self._wire_step)

    def _wire_step(self, request: ModelRequest) -> WireStep:
        """The step of a request: its answer has the same id and time again when the run is resumed."""
        question = CallQuestion.from_request(request)
        self._ask_counts[question.hash] = count = self._ask_counts.get(question.hash, 0) + 1
        task, name = self._state.task, f"answer:{question.hash}:{count}"
        answer_id = derived_id(task.tenant_id, self._state.work.first_steps, name)
        created = int(task.created_at.timestamp())
        return WireStep(answer_id, created, partial(self._ask_for_framework, request, question))

    async def _ask_for_framework(
        self, request: ModelRequest, question: CallQuestion, on_delta: OnDelta | None
    ) -> ModelReply:
        if on_delta is None:
            pieces, streamed = None, list[Any]()
        else:
            pieces = StreamedPieces(on_delta)
            streamed = pieces.pieces
        ask = partial(self._ask, request, question, pieces)
        with past_frameworks(self._journal):
            try:
                reply = await self._by_request(ask, lambda: streamed, reads_on=True)
            except MeshError as error:
                self.refusal = error
                raise
        self.refusal = None
        return reply

    def transport(self, package: HttpPackage = "httpx") -> Any:
        """A transport for a client of httpx, or of httpx2, whose every request is a step of this run.

        `httpx.AsyncClient(transport=run.transport())` for a framework that takes a client of its own. It
        answers chat completions, responses, messages and embeddings at any host. For sync code in a thread it
        is the transport of `httpx.Client` too.
        """
        self.has_clients = True
        return run_transport(self.wire, package)

    def openai(self) -> AsyncOpenAI:
        """A client of OpenAI's SDK whose every call of a model is a step of this run.

        It answers in this run alone, with the errors that the SDK knows, and repeats none by itself. Raises
        AgentError without the extra `meshwright[openai]`.
        """
        openai = import_library("openai", "openai")
        package: HttpPackage = "httpx" if openai.__version__.startswith("2.") else "httpx2"
        client = import_library(package, "openai").AsyncClient(transport=self.transport(package))
        return openai.AsyncOpenAI(api_key=_KEY, base_url=f"{_URL}/v1", max_retries=0, http_client=client)

    def anthropic(self) -> AsyncAnthropic:
        """A client of Anthropic's SDK whose every call of a model is a step of this run; see `openai`.

        Raises AgentError without the extra `meshwright[anthropic]`.
        """
        client = import_library("httpx2", "anthropic").AsyncClient(transport=self.transport("httpx2"))
        return import_library("anthropic", "anthropic").AsyncAnthropic(
            api_key=_KEY, base_url=_URL, max_retries=0, http_client=client
        )

    def functions(self, *names: str) -> list[Callable[..., Awaitable[Any]]]:
        """The agent's tools, or those of these names, as async functions for a framework.

        Each has the name, the parameters, the annotations and the docstring of its tool; one that is known
        by a JSON schema alone, as of an MCP server, gets them from that. A call is checked, bounded, approved
        and journaled as `call` does it, and returns plain JSON data. Raises AgentError for a name that is no
        tool, and for a tool whose parameters Python cannot name.
        """
        tools = self._state.tools
        for name in names:
            self._tool(name)
        return [
            tool_function(tools[name], partial(self._call_for_framework, name)) for name in names or tools
        ]

    async def _call_for_framework(self, name: str, arguments: str) -> Any:
        with past_frameworks(self._journal):
            return await self._by_request(lambda: self._call(name, arguments))

    async def _call(self, name: str, arguments: str) -> Any:
        state, tool = self._state, self._tool(name)
        context: Any = self  # the whole `Run`
        call = ToolCall(id="", name=name, arguments=arguments)
        result = await call_tool(context, state, self._calls, call, outside=state.journal.outside)
        return read_value(result, tool)

    def _tool(self, name: str) -> Tool:
        state = self._state
        if name not in state.tools:
            names = ", ".join(state.tools) or "none"
            raise AgentError(f"{state.agent.agent_id} has no tool {name!r}", remedy=f"Call one of {names}")
        return state.tools[name]
