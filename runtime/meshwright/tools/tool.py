"""Tools: typed, documented methods that a model may call.

    class Almanac(Agent):
        @tool(idempotent=True)
        async def sunrise(self, city: str, day: date | None = None) -> str:
            '''Tell when the sun rises.

            Args:
                city: a city's name, in English
            '''

The type hints become the JSON schema that the model sees, the docstring its description. What the model
writes is checked against them before anything runs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
import sysconfig
import textwrap
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.core.encoding import plain
from meshwright.core.errors import ConfigError, InvalidInput, MeshError, TooLarge, ToolFailed
from meshwright.core.messages import ID_PATTERN, MemoryScope, Task
from meshwright.core.redaction import redact, redact_data
from meshwright.core.schema import faults, with_defaults
from meshwright.models.port import ToolSpec
from meshwright.models.structure import WithoutTitles, repaired
from meshwright.tools.threads import ToolThreads

logger = logging.getLogger("meshwright.tools")
MAX_RESULT_CHARS = 32_000
_MAX_ARGUMENTS_CHARS = 65_536
_MAX_ERRORS_TOLD = 5
MARK = "__meshwright_tool__"
_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_Text = Annotated[str, Field(min_length=1)]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class ToolContext(Protocol):
    """What a tool may know of the run that calls it, and ask of the mesh.

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

    async def delegate(self, agent_id: str, text: str) -> str:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer."""
        ...

    async def remember(self, text: str, scope: MemoryScope) -> str:
        """Store a memory in a scope (task, agent, project or global); returns what to tell the model."""
        ...


@dataclass(frozen=True, slots=True)
class _Declaration:
    """What `@tool` says of a function beyond its signature and docstring."""

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
    over 32,000 characters are cut. Raise ToolFailed to tell the model what went wrong; other exceptions reach
    it as ToolFailed too, with the line that raised them, and are logged.

    Raises ConfigError, with file and line, where the function cannot be a tool.
    """

    def declare(function: FunctionT) -> FunctionT:
        if not inspect.isfunction(function):
            raise ConfigError(f"@tool is for functions, not for {function!r}", remedy="put it innermost")
        made = _Declaration(name or function.__name__, idempotent, timeout, exclusive, needs_approval)
        setattr(function, MARK, made)
        _check(function)
        return function

    return declare if function is None else declare(function)


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
        """Call it with arguments as JSON text, as the model wrote it; returns what JSON can hold.

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
            told = "; ".join(
                f"{path or 'arguments'}: {message}" for path, message in found[:_MAX_ERRORS_TOLD]
            )
            raise InvalidInput(f"{self.name} was not run: {told}", field=found[0].path or "arguments")
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


class FunctionTool(Tool):
    """A function, or bound method, that `@tool` marked. One that is not async runs in `threads`.

    Raises ConfigError, with file and line, where its types cannot be described.
    """

    def __init__(self, function: Callable[..., Any], threads: ToolThreads | None = None) -> None:
        declaration: _Declaration = getattr(function, MARK)
        self.function = function
        self.name, self.idempotent = declaration.name, declaration.idempotent
        self.timeout, self.exclusive = declaration.timeout, declaration.exclusive
        self.needs_approval = declaration.needs_approval
        self.threads = threads or ToolThreads()
        self.description, meanings = _read_docstring(function.__doc__ or "")
        try:
            hints = get_type_hints(function, include_extras=True)
            parameters = _parameters(function)
            self._context_names = [name for name in parameters if hints[name] is ToolContext]
            self._names = [name for name in parameters if name not in self._context_names]
            fields: dict[str, Any] = {
                # Numbered, because a parameter's name may be one that a model's attribute has.
                f"argument_{number}": (hints[name], _field(parameters[name], meanings.get(name)))
                for number, name in enumerate(self._names)
            }
            config = ConfigDict(extra="forbid", allow_inf_nan=False)
            self._model: type[BaseModel] = create_model("Arguments", __config__=config, **fields)
            self.parameters = self._model.model_json_schema(schema_generator=WithoutTitles)
        except (NameError, AttributeError, TypeError, PydanticUserError) as error:
            remedy = "use types that pydantic knows, imported for run time too (not under TYPE_CHECKING)"
            raise _refusal(function, f"has a type that cannot be read: {error}", remedy) from error
        del self.parameters["title"]

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Check the arguments, and run the function."""
        values = self._read(arguments) | dict.fromkeys(self._context_names, context)
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**values)
        work = partial(_without_stop_iteration, self.function, values)
        result = await self.threads.run(work, tool=self.name, context=context)
        return await result if inspect.isawaitable(result) else result

    def validated(self, arguments: str) -> dict[str, Any]:
        """The arguments of a call, with the defaults of the function."""
        return from_json(to_json(self._read(arguments), inf_nan_mode="null", fallback=plain))

    def _read(self, text: str) -> dict[str, Any]:
        """Check JSON text strictly, and return the value of each parameter, defaults included.

        What is nearly JSON and can mean one thing alone is read as that: see `repaired`.
        """
        if len(text) > _MAX_ARGUMENTS_CHARS:
            raise TooLarge(
                f"{self.name} was not run: its arguments have {len(text):,} characters",
                remedy=f"stay below {_MAX_ARGUMENTS_CHARS:,}",
                field="arguments",
            )
        # Some servers send an empty text for a tool that takes nothing.
        if not text and not self._names:
            return {}
        try:
            values = self._model.model_validate_json(repaired(text), strict=True)
        except ValidationError as error:
            errors = error.errors(include_input=False, include_url=False)
            places = [".".join(map(str, each["loc"])) or "arguments" for each in errors]
            told = [f"{place}: {each['msg']}" for place, each in zip(places, errors, strict=True)]
            raise InvalidInput(
                f"{self.name} was not run: {'; '.join(told[:_MAX_ERRORS_TOLD])}",
                remedy=f"send one JSON object with: {', '.join(self._names) or 'nothing in it'}",
                field=places[0],
            ) from error
        return {name: getattr(values, f"argument_{number}") for number, name in enumerate(self._names)}


class LimitedTool(ToolWrapper):
    """A tool within the limits of its agent: time, size, and what of its errors and results is shown.

    What a tool raises on purpose (any MeshError) passes as it is, every other exception becomes ToolFailed,
    and so does a call that takes longer than the tool's own timeout or `timeout_seconds`. The result is plain
    JSON data; one over 32,000 characters is text that says where it was cut. Secrets are redacted.
    """

    def __init__(self, inner: Tool, timeout_seconds: float) -> None:
        super().__init__(inner)
        self.timeout = inner.timeout or timeout_seconds

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the inner tool within the limits."""
        try:
            return _plain(await self._within_time(arguments, context))
        except MeshError as error:
            error.message, error.remedy = redact(error.message), redact(error.remedy)
            error.args = (error.message,)
            raise
        # A tool's body is not ours and may raise anything: its model must see it, and its run go on.
        except Exception as error:
            place = author_place(error)
            logger.error(
                "tool %s failed at %s", self.name, place or "no line of its author's", exc_info=error
            )
            where = f" ({place.short})" if place else ""
            raise ToolFailed(redact(f"{type(error).__name__}: {error}{where}")) from error

    async def _within_time(self, arguments: str, context: ToolContext) -> Any:
        limit = asyncio.timeout(None if self.timeout == math.inf else self.timeout)
        try:
            async with limit:
                return await self.inner.call(arguments, context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ToolFailed(
                f"{self.name} did not end within {self.timeout:g} seconds and was given up",
                remedy=""
                if self.idempotent
                else "It may still take effect: find out before you call it again",
            ) from error


def tools_of(*owners: object, threads: ToolThreads | None = None) -> list[Tool]:
    """The tools among the methods of agents and toolsets, in the order in which they were written.

    Raises ConfigError where one cannot be described, or two share a name.
    """
    tools: dict[str, Tool] = {}
    for method in (method for owner in owners for method in _marked_methods(owner)):
        described = FunctionTool(method, threads)
        if described.name in tools:
            raise _refusal(method, "has the name of another tool", 'give it one: @tool(name="...")')
        tools[described.name] = described
    return list(tools.values())


def cut(text: str, max_chars: int) -> str:
    """A text no longer than it may be, which says so if it was cut."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[cut: the first {max_chars:,} of {len(text):,} characters]"


def _plain(result: Any) -> Any:
    try:
        data = to_json(result, inf_nan_mode="null", fallback=plain)
    except (PydanticSerializationError, ValueError) as error:
        raise ToolFailed(f"its result is not what JSON can hold: {error}") from error
    text = result if isinstance(result, str) else data.decode()
    if len(text) > MAX_RESULT_CHARS:
        return redact(cut(text, MAX_RESULT_CHARS))
    return redact_data(from_json(data))


def _marked_methods(owner: object) -> list[Callable[..., Any]]:
    attributes: dict[str, Any] = {}
    for base in reversed(type(owner).__mro__):
        attributes.update(vars(base))
    return [getattr(owner, name) for name, attribute in attributes.items() if hasattr(attribute, MARK)]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def _check(function: Callable[..., Any]) -> None:
    parameters = _parameters(function)
    if not re.fullmatch(ID_PATTERN, getattr(function, MARK).name):
        raise _refusal(function, "has a name that models refuse", "use at most 64 letters, digits, _ and -")
    if not (function.__doc__ or "").strip():
        raise _refusal(function, "has no docstring", "say in it what the tool does: the model reads it")
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise _refusal(function, f"takes {parameter}", "give each parameter a name of its own")
        if parameter.annotation is parameter.empty:
            raise _refusal(function, f"does not say the type of {name!r}", f"write {name}: str, or the like")
    timeout = getattr(function, MARK).timeout
    if timeout is not None and not timeout > 0:
        raise _refusal(function, f"has a timeout of {timeout!r}", "give it seconds, or math.inf for no limit")
    for name in _read_docstring(function.__doc__ or "")[1].keys() - parameters:
        raise _refusal(function, f"describes {name!r}, which it does not take", "correct its docstring")


def _refusal(function: Callable[..., Any], complaint: str, remedy: str) -> ConfigError:
    name, code = getattr(function, MARK).name, function.__code__
    message = f"tool {name!r} {complaint}"
    return ConfigError(message, path=code.co_filename, line=code.co_firstlineno, remedy=remedy, field=name)


def _without_stop_iteration(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    try:
        return function(**values)
    except StopIteration as error:
        # A future cannot carry one: whoever waits for it would wait for ever.
        raise RuntimeError("StopIteration") from error


def _read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
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


def _field(parameter: inspect.Parameter, meaning: str | None) -> Any:
    default = ... if parameter.default is parameter.empty else parameter.default
    # A description of None would hide the one of an `Annotated[..., Field(description=...)]`.
    described: dict[str, Any] = {"description": meaning} if meaning else {}
    return Field(default, alias=parameter.name, **described)


# Tools that reach into the mesh itself


def delegate_tool(agent_ids: Sequence[str]) -> Tool:
    """The tool by which an agent gives work to the named other agents; its model can name no other.

    It may run again after a crash: the mesh knows a delegated task by the step that delegated it.
    """

    @tool(idempotent=True, timeout=math.inf)
    async def delegate(agent_id: str, text: _Text, context: ToolContext) -> str:
        """Give a task to another agent, wait for it, and get its answer.

        Args:
            agent_id: who shall do it
            text: the whole task in words; the other agent knows nothing of this conversation
        """
        return await context.delegate(agent_id, text)

    one_of: Any = Literal
    delegate.__annotations__["agent_id"] = one_of[tuple(agent_ids)]
    return FunctionTool(delegate)


def remember_tool() -> Tool:
    """The tool by which an agent keeps what later runs should know.

    It may run again after a crash: the mesh knows a memory by the step that stored it.
    """

    @tool(idempotent=True)
    async def remember(text: _Text, context: ToolContext, scope: MemoryScope = "agent") -> str:
        """Remember something for later: a decision, a preference, a fact that was hard to find.

        Args:
            text: what to remember, in one or two sentences that stand on their own
            scope: who will recall it: this task, this agent, this project, or everybody (global)
        """
        return await context.remember(text, scope)

    return FunctionTool(remember)


# Where in an author's code an error comes from: not in ours, nor in a library's


class Place(NamedTuple):
    """A line of a file."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def short(self) -> str:
        """The place without the folders that say where on this machine the project lies."""
        return f"{'/'.join(Path(self.path).parts[-2:])}:{self.line}"


def author_place(error: BaseException) -> Place | None:
    """The last line of the author's code that an error passed through, if it passed through any."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((Place(path, line) for path, line, _, _ in frames if line and is_of_an_author(path)), None)


def is_of_an_author(filename: str) -> bool:
    """Whether a file is part of a project, not of Meshwright or a library."""
    return not filename.startswith(("<", _PACKAGE, *_LIBRARIES))
