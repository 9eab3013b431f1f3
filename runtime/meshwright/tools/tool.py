"""Tools: typed, documented methods that a model may call.

    class Almanac(Agent):
        @tool(idempotent=True)
        async def sunrise(self, city: str, day: date | None = None) -> str:
            '''Tell when the sun rises.

            Args:
                city: a city's name, in English
            '''

The type hints become the JSON schema that the model sees, the docstring its description. The model's
arguments are checked against them before anything runs.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

from pydantic_core import from_json

from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.core.files import File, TaskFile
from meshwright.core.messages import ID_PATTERN, MemoryScope, Outcome, Task
from meshwright.core.schema import faults, with_defaults
from meshwright.models.port import ToolSpec
from meshwright.models.structure import repaired

if TYPE_CHECKING:
    from meshwright.ledger.spending import Activity

MAX_ERRORS = 5
MARK = "__meshwright_tool__"

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class ToolContext(Protocol):
    """The run that calls a tool, as the tool sees it.

    A parameter of this type is filled in by the runtime; the model does not see it.
    """

    @property
    def task(self) -> Task:
        """The task being worked on."""
        ...

    @property
    def agent_id(self) -> str:
        """The agent that works on it."""
        ...

    @overload
    async def delegate(self, agent_id: str, text: str) -> str: ...
    @overload
    async def delegate(self, agent_id: str, text: str, *, shape: type[Outcome]) -> Outcome: ...

    async def delegate(self, agent_id: str, text: str, *, shape: Any = None) -> Any:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer."""
        ...

    async def read_file(self, file: File | TaskFile) -> File:
        """A file of another task's outcome, with its bytes."""
        ...

    async def remember(self, text: str, scope: MemoryScope) -> str:
        """Store a memory in a scope (task, agent, project or global); returns what to tell the model."""
        ...

    async def activity(self, since: datetime) -> Activity:
        """The activity in the task's tenant since a time: tasks that ended, waits, costs."""
        ...


@dataclass(frozen=True, slots=True)
class Declaration:
    """The options of `@tool` for a function."""

    name: str
    idempotent: bool
    timeout: float | None
    exclusive: bool
    needs_approval: bool


@overload
def tool(function: FunctionT, /) -> FunctionT: ...


@overload
def tool(
    *,
    idempotent: bool = False,
    name: str | None = None,
    timeout: float | None = None,
    exclusive: bool = False,
    needs_approval: bool = False,
) -> Callable[[FunctionT], FunctionT]: ...


def tool(
    function: FunctionT | None = None,
    /,
    *,
    idempotent: bool = False,
    name: str | None = None,
    timeout: float | None = None,
    exclusive: bool = False,
    needs_approval: bool = False,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Let the model call a method: with a docstring, every parameter annotated, async or not.

    A function that is not async runs in a thread. `idempotent` says that to run it twice does no harm, so
    that a run which was cut short in the middle of it may call it again; for any other tool a person is
    asked. `timeout` is how many seconds a call may take, by default the setting `tools.timeout_seconds`;
    `math.inf` sets no limit. The calls of one reply run side by side; one of an `exclusive` tool runs alone,
    after those before it and before those behind it. With `needs_approval` a person approves each call before
    it runs, unless a rule in the settings says otherwise. It returns whatever pydantic can write as JSON;
    over 32,000 characters are cut. A `File` anywhere in that is shown to the model beside it. Raise
    ToolFailed to tell the model what went wrong; other exceptions reach it as ToolFailed too, with the line
    that raised them, and are logged.

    Raises ConfigError, with file and line, where the function cannot be a tool.
    """

    def declare(function: FunctionT) -> FunctionT:
        if not inspect.isfunction(function):
            raise ConfigError(f"@tool is for functions, not for {function!r}", remedy="put it innermost")
        made = Declaration(name or function.__name__, idempotent, timeout, exclusive, needs_approval)
        setattr(function, MARK, made)
        _check(function)
        return function

    return declare if function is None else declare(function)


class ToolResult(NamedTuple):
    """A result with files: plain JSON data in which each file is described, and the files."""

    value: Any
    files: tuple[File, ...]


class Tool(ABC):
    """Something that a model may call: a method that `@tool` marked, a tool of another system, another agent.

    `parameters` is the JSON schema of the arguments, an object. `idempotent`: to call it twice does no harm.
    `timeout`: seconds that a call may take, None for what its agent allows, `math.inf` for no limit.
    `exclusive`: no other tool of the same reply runs beside it.
    `needs_approval`: a person approves each call, where no rule in the settings says otherwise.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    idempotent: bool = False
    timeout: float | None = None
    exclusive: bool = False
    needs_approval: bool = False

    @property
    def spec(self) -> ToolSpec:
        """The tool as a model sees it."""
        return ToolSpec(name=self.name, description=self.description, parameters=self.parameters)

    @abstractmethod
    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call it with arguments as JSON text, as the model wrote it; returns what JSON can hold, and files.

        Raises InvalidInput, naming the field, for arguments that do not fit: nothing has run then. Raises
        ToolFailed to tell the model what went wrong.
        """

    def validated(self, arguments: str) -> dict[str, Any]:
        """The arguments of a call as plain data, checked and with their defaults: what a person approves.

        Raises InvalidInput, as `call` does for them.
        """
        try:
            values = with_defaults(self.parameters, from_json(repaired(arguments or "{}")))
        except ValueError as error:
            raise InvalidInput(f"{self.name} was not run: {error}", field="arguments") from error
        if found := faults({"type": "object", **self.parameters}, values):
            errors = "; ".join(f"{path or 'arguments'}: {message}" for path, message in found[:MAX_ERRORS])
            raise InvalidInput(f"{self.name} was not run: {errors}", field=found[0].path or "arguments")
        return values


class ToolWrapper(Tool):
    """Base of a tool around another: it looks the same, and calls it. Override `call` to do more."""

    def __init__(self, inner: Tool) -> None:
        self.inner = inner
        self.name, self.description, self.parameters = inner.name, inner.description, inner.parameters
        self.idempotent, self.timeout = inner.idempotent, inner.timeout
        self.exclusive = inner.exclusive
        self.needs_approval = inner.needs_approval

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the inner tool."""
        return await self.inner.call(arguments, context)

    def validated(self, arguments: str) -> dict[str, Any]:
        """The inner tool's arguments."""
        return self.inner.validated(arguments)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a tool by name, without `self`."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def _check(function: Callable[..., Any]) -> None:
    parameters = parameters_of(function)
    if not re.fullmatch(ID_PATTERN, getattr(function, MARK).name):
        raise refusal(function, "has a name that models refuse", "use at most 64 letters, digits, _ and -")
    if not (function.__doc__ or "").strip():
        raise refusal(function, "has no docstring", "say in it what the tool does: the model reads it")
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise refusal(function, f"takes {parameter}", "give each parameter a name of its own")
        if parameter.annotation is parameter.empty:
            raise refusal(function, f"does not say the type of {name!r}", f"write {name}: str, or the like")
    timeout = getattr(function, MARK).timeout
    if timeout is not None and not timeout > 0:
        raise refusal(function, f"has a timeout of {timeout!r}", "give it seconds, or math.inf for no limit")
    for name in read_docstring(function.__doc__ or "")[1].keys() - parameters:
        raise refusal(function, f"describes {name!r}, which it does not take", "correct its docstring")


def refusal(function: Callable[..., Any], complaint: str, remedy: str) -> ConfigError:
    """The error for a function that cannot be a tool, at its line."""
    name, code = getattr(function, MARK).name, function.__code__
    message = f"tool {name!r} {complaint}"
    return ConfigError(message, path=code.co_filename, line=code.co_firstlineno, remedy=remedy, field=name)


def read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into what the tool does and, from its `Args:` section, what each parameter means."""
    text, *sections = re.split(r"^(Args|Returns|Raises):[ \t]*$", inspect.cleandoc(docstring), flags=re.M)
    meanings: dict[str, str] = {}
    name = ""
    for head, body in zip(sections[::2], sections[1::2], strict=True):
        for line in textwrap.dedent(body).splitlines() if head == "Args" else ():
            begins = re.match(r"(\w+)[^:]*:(.*)", line)
            name, line = begins.groups() if begins else (name, line)
            meanings[name] = f"{meanings.get(name, '')} {line.strip()}".strip()
    meanings.pop("", None)
    return text.strip(), meanings
