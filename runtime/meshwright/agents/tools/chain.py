"""Wrappers of tools: of one tool, and of every call, at the positions of the chain that it passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, get_args

from typing_extensions import TypeVar

from meshwright.agents.tools.tool import Tool, ToolContext
from meshwright.core.checks import CheckResult
from meshwright.core.errors import ConfigError


class ToolWrapper(Tool):
    """Base of a tool around another: it looks the same, and calls it. Override `call` to do more."""

    def __init__(self, inner: Tool) -> None:
        self.inner = inner
        self.name, self.description, self.parameters = inner.name, inner.description, inner.parameters
        self.idempotent, self.timeout = inner.idempotent, inner.timeout
        self.exclusive = inner.exclusive
        self.needs_approval = inner.needs_approval
        self.effect, self.origin, self.network = inner.effect, inner.origin, inner.network
        self.contained = inner.contained
        self.min_window_tokens = inner.min_window_tokens
        self.max_chars, self.target = inner.max_chars, inner.target

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the inner tool."""
        return await self.inner.call(arguments, context)

    @property
    def has_preview(self) -> bool:
        """Whether the inner tool has one."""
        return self.inner.has_preview

    async def preview(self, arguments: str, context: ToolContext) -> Any | None:
        """The inner tool's preview."""
        return await self.inner.preview(arguments, context)

    @property
    def has_check(self) -> bool:
        """Whether the inner tool has one."""
        return self.inner.has_check

    async def check(self, arguments: str, context: ToolContext) -> CheckResult:
        """The result of the inner tool's check."""
        return await self.inner.check(arguments, context)

    def validated(self, arguments: str) -> dict[str, Any]:
        """The inner tool's arguments."""
        return self.inner.validated(arguments)


ToolPosition = Literal[
    "approve", "journal", "time", "trace", "taint", "result", "check", "mask", "files", "limit"
]
"""A position in the chain that every call passes, from the outermost to the one next to the tool."""
TOOL_POSITIONS: tuple[ToolPosition, ...] = get_args(ToolPosition)


@dataclass(eq=False, slots=True)
class ToolInvocation:
    """One call on its way through the chain."""

    tool: Tool
    """The tool."""
    arguments: str
    """JSON text as the model wrote it. Secrets of the workspace are masked in it, also next to the tool."""
    context: ToolContext
    """The run that makes the call."""


InvocationT = TypeVar("InvocationT", bound=ToolInvocation, default=ToolInvocation)


class ToolLink(ABC, Generic[InvocationT]):
    """A link of the chain around another. Override `call`, and call `inner` in it."""

    def __init__(self, inner: ToolLink[Any]) -> None:
        self.inner = inner

    @abstractmethod
    async def call(self, call: InvocationT) -> dict[str, Any]:
        """The result of a call: its `value` as plain data, its `error` or None, and notes of the links.

        Between `check` and the tool an error is raised: ToolFailed, or another MeshError.
        """


class ToolCallWrapper(NamedTuple):
    """Wraps the calls of tools at a position of their chain, around the mesh's own link of that name.

    At `approve` it gets each call that a model or code asks for, at `journal` each that is decided, also in a
    run that is resumed; at `time`, `trace`, `taint` and `result` each that is executed, with an error in
    place of its value where it fails; at `check` the same, with its error raised; at `mask`, `files` and
    `limit` each whose approval still holds. `wrap` is called once for each process.
    """

    position: ToolPosition
    """Its place in the chain of every call."""
    wrap: Callable[[ToolLink[Any]], ToolLink[Any]]
    """Makes the link around the given one. Called once for each process."""


class ToolChain(NamedTuple):
    """The links of a process: the first, and the first of those whose results have no secrets.

    The latter is for a call that is approved and recorded already, and made again to read the same.
    """

    first: ToolLink[Any]
    cleaning: ToolLink[Any]


def chained(innermost: ToolLink[Any], wrappers: Iterable[ToolCallWrapper]) -> ToolLink[Any]:
    """Returns a link in its wrappers; of those at one position, the first is next to the tool."""
    offers = [*wrappers]
    for wrapper in offers:
        if wrapper.position not in TOOL_POSITIONS:
            problem = f"The chain of tool calls has no position {wrapper.position!r}"
            raise ConfigError(problem, remedy=f"Known are {', '.join(TOOL_POSITIONS)}", field="position")
    for wrapper in sorted(offers, key=lambda wrapper: TOOL_POSITIONS.index(wrapper.position), reverse=True):
        innermost = wrapper.wrap(innermost)
    return innermost
