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
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, from_json, to_json

from meshwright.errors import ConfigError, InvalidInput, MeshError, TooLarge, ToolFailed
from meshwright.messages import ID_PATTERN, MemoryScope, Task
from meshwright.models.port import ToolSpec
from meshwright.models.structure import WithoutTitles, repaired
from meshwright.redaction import redact, redact_data
from meshwright.tools.places import author_place
from meshwright.tools.threads import ToolThreads

logger = logging.getLogger("meshwright.tools")
MAX_RESULT_CHARS = 32_000
MARK = "__meshwright_tool__"

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


@overload
def tool(function: FunctionT, /) -> FunctionT: ...


@overload
def tool(
    *, idempotent: bool = False, name: str | None = None, timeout: float | None = None
) -> Callable[[FunctionT], FunctionT]: ...


def tool(
    function: FunctionT | None = None,
    /,
    *,
    idempotent: bool = False,
    name: str | None = None,
    timeout: float | None = None,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Let the model call a method: with a docstring, every parameter annotated, async or not.

    A function that is not async runs in a thread. `idempotent` says that to run it twice does no harm, so
    that a run which was cut short in the middle of it may call it again; for any other tool a person is
    asked. `timeout` is how many seconds a call may take, by default the setting `tools.timeout_seconds`;
    `math.inf` sets no limit. It returns whatever pydantic can write as JSON; over 32,000 characters are cut.
    Raise ToolFailed to tell the model what went wrong; other exceptions reach it as ToolFailed too, with the
    line that raised them, and are logged.

    Raises ConfigError, with file and line, where the function cannot be a tool.
    """

    def declare(function: FunctionT) -> FunctionT:
        if not inspect.isfunction(function):
            raise ConfigError(f"@tool is for functions, not for {function!r}", remedy="put it innermost")
        setattr(function, MARK, _Declaration(name or function.__name__, idempotent, timeout))
        _check(function)
        return function

    return declare if function is None else declare(function)


class Tool(ABC):
    """Something that a model may call: a method that `@tool` marked, a tool of another system, another agent.

    `parameters` is the JSON schema of the arguments, an object. `idempotent`: to call it twice does no harm.
    `timeout`: seconds that a call may take, None for what its agent allows, `math.inf` for no limit.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    idempotent: bool = False
    timeout: float | None = None

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


class ToolWrapper(Tool):
    """Base of a tool around another: it looks the same, and calls it. Override `call` to do more."""

    def __init__(self, inner: Tool) -> None:
        self.inner = inner
        self.name, self.description, self.parameters = inner.name, inner.description, inner.parameters
        self.idempotent, self.timeout = inner.idempotent, inner.timeout

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Call the inner tool."""
        return await self.inner.call(arguments, context)


class FunctionTool(Tool):
    """A function, or bound method, that `@tool` marked. One that is not async runs in `threads`.

    Raises ConfigError, with file and line, where its types cannot be described.
    """

    def __init__(self, function: Callable[..., Any], threads: ToolThreads | None = None) -> None:
        declaration: _Declaration = getattr(function, MARK)
        self.function = function
        self.name, self.idempotent = declaration.name, declaration.idempotent
        self.timeout = declaration.timeout
        self.threads = threads or ToolThreads()
        self.description, meanings = _read_docstring(function.__doc__ or "")
        try:
            hints = get_type_hints(function, include_extras=True)
            own = _parameters(function)
            self._context_names = [name for name in own if hints[name] is ToolContext]
            described = {name: own[name] for name in own if name not in self._context_names}
            self._arguments = Arguments(self.name, described, hints, meanings)
        except (NameError, AttributeError, TypeError, PydanticUserError) as error:
            remedy = "use types that pydantic knows, imported for run time too (not under TYPE_CHECKING)"
            raise _refusal(function, f"has a type that cannot be read: {error}", remedy) from error
        self.parameters = self._arguments.schema

    async def call(self, arguments: str, context: ToolContext) -> Any:
        """Check the arguments, and run the function."""
        values = self._arguments.read(arguments) | dict.fromkeys(self._context_names, context)
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**values)
        work = partial(_without_stop_iteration, self.function, values)
        result = await self.threads.run(work, tool=self.name, context=context)
        return await result if inspect.isawaitable(result) else result


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
        data = to_json(result, inf_nan_mode="null")
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


_MAX_ARGUMENTS_CHARS = 65_536
_MAX_ERRORS_TOLD = 5


class Arguments:
    """Reads what a model wrote as the arguments of one tool; `schema` is the JSON schema it was shown."""

    def __init__(
        self,
        tool: str,
        parameters: Mapping[str, inspect.Parameter],
        hints: Mapping[str, Any],
        meanings: Mapping[str, str],
    ) -> None:
        fields: dict[str, Any] = {
            # Numbered, because a parameter's name may be one that a model's attribute has.
            f"argument_{number}": (hints[name], _field(parameter, meanings.get(name)))
            for number, (name, parameter) in enumerate(parameters.items())
        }
        config = ConfigDict(extra="forbid", allow_inf_nan=False)
        self.tool = tool
        self.names = list(parameters)
        self._model: type[BaseModel] = create_model("Arguments", __config__=config, **fields)
        self.schema = self._model.model_json_schema(schema_generator=WithoutTitles)
        self.schema.pop("title")

    def read(self, text: str) -> dict[str, Any]:
        """Check JSON text strictly, and return the value of each parameter, defaults included.

        What is nearly JSON and can mean one thing alone is read as that: see `repaired`.

        Raises InvalidInput for text that is not JSON, an unknown or missing parameter, a wrong type;
        TooLarge for too much of it.
        """
        if len(text) > _MAX_ARGUMENTS_CHARS:
            raise TooLarge(
                f"{self.tool} was not run: its arguments have {len(text):,} characters",
                remedy=f"stay below {_MAX_ARGUMENTS_CHARS:,}",
                field="arguments",
            )
        # Some servers send an empty text for a tool that takes nothing.
        if not text and not self.names:
            return {}
        try:
            values = self._model.model_validate_json(repaired(text), strict=True)
        except ValidationError as error:
            raise self._misfit(error) from error
        return {name: getattr(values, f"argument_{number}") for number, name in enumerate(self.names)}

    def _misfit(self, error: ValidationError) -> InvalidInput:
        errors = error.errors(include_input=False, include_url=False)
        places = [".".join(map(str, each["loc"])) or "arguments" for each in errors]
        told = [f"{place}: {each['msg']}" for place, each in zip(places, errors, strict=True)]
        return InvalidInput(
            f"{self.tool} was not run: {'; '.join(told[:_MAX_ERRORS_TOLD])}",
            remedy=f"send one JSON object with: {', '.join(self.names) or 'nothing in it'}",
            field=places[0],
        )


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
