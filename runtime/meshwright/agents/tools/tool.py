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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, TypeVar, Unpack, get_args, overload

from pydantic_core import from_json

from meshwright.agents.tools.settings import Effect
from meshwright.core.checks import CheckResult
from meshwright.core.errors import ConfigError, InvalidInput
from meshwright.core.files import File, TaskFile
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import AnswerT, MemoryKind, MemoryScope, Task
from meshwright.core.payloads import StepPayload
from meshwright.core.schema import faults, with_defaults
from meshwright.models.port import ToolSpec
from meshwright.models.structure import ShapeT, repaired

if TYPE_CHECKING:
    from meshwright.agents.trees.tree import Tree
    from meshwright.money.spending import Activity

MAX_ERRORS = 5
MAX_RESULT_CHARS = 32_000
MARK = "__meshwright_tool__"

Origin = Literal["own", "workspace", "outside"]
"""The origin of the text of a result: the mesh and its author, files of the workspace, or strangers."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The effect of a call that changes nothing, since all is already as the call would make it."""

    shown: Any = "nothing changes: it is so already"
    """The sentence that says so, or plain data."""


class DelegationOptions(TypedDict, total=False):
    """The options of a delegation; `Run.delegate` describes them."""

    thread_id: str | None
    budget_usd: Decimal | str | None
    capability: str
    timeout: float | None
    deadline: float | None
    constraints: Sequence[str]
    questions: Sequence[str]


class QuestionOptions(TypedDict, total=False):
    """The options of a question to a person; `Run.ask_person` describes them."""

    expires: timedelta | datetime | None
    about: Mapping[str, Any] | None
    may_answer: Sequence[str]
    remind: timedelta | None
    then: Sequence[str]


class ToolContext(Protocol):
    """The run that calls a tool, as the tool sees it.

    A parameter of this type is filled in by the runtime; the model does not see it.
    """

    @property
    def task(self) -> Task:
        """The task being worked on."""

    @property
    def agent_id(self) -> str:
        """The agent that works on it."""

    @property
    def step_id(self) -> str:
        """The id of this call: the same when it is run again, so an idempotency key for other services."""

    def secret(self, name: str) -> str:
        """A secret of the mesh: a variable of the environment, or a reference like `file:/run/token`.

        It is hidden in the result of the call. Raises ToolFailed where there is none.
        """

    def mask(self, secret: str) -> str:
        """The text in place of a secret in what the model reads of the workspace, like `[secret:1]`."""

    @property
    def outside(self) -> bool:
        """Whether the run has read text from outside, which strangers may have written."""

    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[DelegationOptions],
    ) -> str: ...
    @overload
    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: type[AnswerT],
        **options: Unpack[DelegationOptions],
    ) -> AnswerT: ...

    async def delegate(
        self,
        agent_id: str = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: Any = None,
        **options: Unpack[DelegationOptions],
    ) -> Any:
        """Give a task to another agent, wait for its outcome without holding a slot, return its answer.

        The agent is named, or chosen by `capability`; `Run.delegate` describes the rest.
        """

    @overload
    async def ask_person(self, question: str, **options: Unpack[QuestionOptions]) -> str: ...
    @overload
    async def ask_person(
        self, question: str, *, shape: type[ShapeT], **options: Unpack[QuestionOptions]
    ) -> ShapeT: ...

    async def ask_person(
        self, question: str, *, shape: Any = None, **options: Unpack[QuestionOptions]
    ) -> Any:
        """Ask a person, and wait for the answer without holding a slot; the tool has to be idempotent."""

    async def step(
        self,
        name: str,
        run: Callable[[], Awaitable[Any]],
        *,
        repeatable: bool = True,
        check: Callable[[str], Awaitable[CheckResult]] | None = None,
    ) -> Any:
        """Run an async function once within the call, however often that is resumed; the result is JSON data.

        A tool that waits within a call, by `ask_person` or `sleep`, has to be idempotent; the part of it that
        must not be repeated is such a step with `repeatable=False`, or with a `check`: see `Run.step`.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait for some time, through restarts, without holding a slot; the tool has to be idempotent."""

    async def progress(self, text: str) -> None:
        """Say how far the work is, as an event of the task."""

    def progress_reporter(self) -> Callable[[str], None]:
        """Returns a function that says how far the call is, from any asyncio task, as an event of the task.

        It is no step: a call that runs again says it again. Beyond ten in a row it publishes one a second.
        """

    async def attach(self, file: File | TaskFile) -> File:
        """Give the outcome of the task a file."""

    async def charge(self, usd: Decimal, what: str, *, is_spent: bool = False) -> None:
        """Book money that the call spends, before it does. Raises ToolFailed where a budget has no room.

        Money that `is_spent` already is booked in any case.
        """

    async def read_file(self, file: File | TaskFile) -> File:
        """A file of another task's outcome, with its bytes."""

    async def remember(
        self, text: str, scope: MemoryScope, *, kind: MemoryKind = "fact", subject: str | None = None
    ) -> str:
        """Store a memory in a scope (task, agent, project or global); returns what to tell the model."""

    async def recall(self, query: str, kind: MemoryKind | None = None) -> str:
        """Recall memories that suit a question: a line for each with its id, or no text where none does."""

    async def tree(self) -> Tree:
        """The tree of the task and of all that it is delegated with: files of a repository to change."""

    async def activity(self, since: datetime) -> Activity:
        """The activity in the task's tenant since a time: tasks that ended, waits, costs."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """The options of `@tool` for a function."""

    name: str
    idempotent: bool
    timeout: float | None
    exclusive: bool
    needs_approval: bool
    effect: Effect
    origin: Origin
    network: bool
    contained: bool
    preview: str
    check: str | Callable[..., Awaitable[CheckResult]]
    max_chars: int


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
    effect: Effect = "change",
    origin: Origin = "own",
    network: bool = False,
    contained: bool = False,
    preview: str = "",
    check: str | Callable[..., Awaitable[CheckResult]] = "",
    max_chars: int = MAX_RESULT_CHARS,
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
    effect: Effect = "change",
    origin: Origin = "own",
    network: bool = False,
    contained: bool = False,
    preview: str = "",
    check: str | Callable[..., Awaitable[CheckResult]] = "",
    max_chars: int = MAX_RESULT_CHARS,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Let the model call a method: with a docstring, every parameter annotated, async or not.

    A function that is not async runs in a thread. `idempotent` says that to run it twice does no harm, so
    that a run which was cut short in the middle of it may call it again; for any other tool a person is
    asked. `timeout` is how many seconds a call may take, by default the setting `tools.timeout_seconds`;
    `math.inf` sets no limit. Calls of a run may work side by side; one of an `exclusive` tool works alone,
    after those before it and before those behind it. With `needs_approval` a person approves each call before
    it runs, unless a rule in the settings says otherwise. `effect` says whether a call changes anything: one
    that says nothing counts as a change. `origin` says whose words a result has: `outside` for pages, logs
    and messages that strangers may have written. Once a run has read such words, a person approves each
    change, and each `run` of a program that has the `network`; a change that is `contained` reaches the tree
    of the task alone, and needs no approval. `preview` names an async method of the owner
    with the same parameters: it returns the effect that a call would have now, as text or plain data (a
    diff, a plan), and changes nothing. It is shown to those who approve, and the tool runs only while its
    effect is still the one that was shown. An idempotent tool also runs where the preview is `Unchanged`: its
    call was cut off behind the change, or another has made the same one.
    `check` is an async function, or names a method of the owner, that says whether a call which was cut off
    has happened. It takes those parameters of the tool that it needs, and `step_id`, which the call had in
    its context; it returns a `CheckResult`, and changes nothing. A call that happened has the result that it
    gives; one that did not runs again; where it cannot tell, an idempotent tool runs again, and about any
    other a person is asked. It has the limits of a call, and where it fails it cannot tell.
    It returns whatever pydantic can write as JSON. Of more than `max_chars` the model gets head and tail, and
    the rest by the tool `output`. A `File` anywhere in that is shown to the model beside it. Raise ToolFailed
    to tell the model what went wrong; other exceptions reach it as ToolFailed too, with the line that raised
    them, and are logged.

    Raises ConfigError, with file and line, where the function cannot be a tool.
    """

    def declare(function: FunctionT) -> FunctionT:
        if not inspect.isfunction(function):
            raise ConfigError(f"@tool is for functions, not for {function!r}", remedy="put it innermost")
        declaration = Declaration(
            name=name or function.__name__,
            idempotent=idempotent,
            timeout=timeout,
            exclusive=exclusive,
            needs_approval=needs_approval,
            effect=effect,
            origin=origin,
            network=network,
            contained=contained,
            preview=preview,
            check=check,
            max_chars=max_chars,
        )
        setattr(function, MARK, declaration)
        _check(function)
        return function

    return declare if function is None else declare(function)


class Tool(ABC):
    """Something that a model may call: a method that `@tool` marked, a tool of another system, another
    agent."""

    name: str
    """The name by which the model calls it."""
    description: str
    """Its purpose, for the model."""
    parameters: dict[str, Any]
    """The JSON schema of the arguments, an object."""
    idempotent: bool = False
    """Whether calling it twice does no harm: an interrupted call runs again without asking a person."""
    timeout: float | None = None
    """Seconds that a call may take. None: what its agent allows; `math.inf`: no limit."""
    exclusive: bool = False
    """Whether no other tool of the run works beside it."""
    needs_approval: bool = False
    """Whether a person approves each call, unless a rule in the settings says otherwise."""
    effect: Effect = "change"
    """The effect of a call: `read`, `change`, or `run` for a program in the sandbox."""
    origin: Origin = "own"
    """The author of the words of its result: `own`, `workspace` or `outside`."""
    min_window_tokens: int = 0
    """The smallest window, in tokens, of a model that is to use it."""
    network: bool = False
    """Whether a program that it runs in the sandbox reaches hosts."""
    contained: bool = False
    """Whether its changes reach the tree of the task alone, so that they need no approval."""
    max_chars: int = MAX_RESULT_CHARS
    """Characters of a result: of a longer one the model gets head and tail."""
    connects_late: bool = False
    """Whether a call may go on while its toolset is not ready: the tool itself fails where it has to."""
    target: str = ""
    """The system where its calls take effect, such as an address. An approval holds for that system alone."""

    @property
    def may_change(self) -> bool:
        """Whether a call may change something beyond its sandbox and the tree of its task."""
        if self.effect == "change":
            return not self.contained
        return self.effect == "run" and self.network

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

    @property
    def has_preview(self) -> bool:
        """Whether it can say the effect of a call before it is made."""
        return type(self).preview is not Tool.preview

    async def preview(self, arguments: str, context: ToolContext) -> Any | None:
        """The effect that a call would have now, as text or plain data; None for a tool that cannot say.

        It changes nothing. Raises what `call` raises; no person is asked then, and the call fails.
        """
        return None

    @property
    def has_check(self) -> bool:
        """Whether it can say of a call that was cut off whether it has happened."""
        return type(self).check is not Tool.check

    async def check(self, arguments: str, context: ToolContext) -> CheckResult:
        """Whether a call that was cut off has happened; `step_id` of the context is that of the call.

        It changes nothing. An error that it raises counts as `unknown`.
        """
        return CheckResult.unknown(f"{self.name} has no check")

    def events(self, value: Any) -> Sequence[StepPayload]:
        """Further events of the step of a call that succeeded, by its value as the step records it."""
        return ()

    def validated(self, arguments: str) -> dict[str, Any]:
        """The arguments of a call as plain data, checked and with their defaults: what a person approves.

        Raises InvalidInput, as `call` does for them.
        """
        try:
            values = with_defaults(self.parameters, from_json(repaired(arguments or "{}")))
        except ValueError as error:
            raise InvalidInput(f"{self.name} was not run: {error}", field="arguments") from error
        if problems := faults({"type": "object", **self.parameters}, values):
            errors = "; ".join(f"{path or 'arguments'}: {message}" for path, message in problems[:MAX_ERRORS])
            raise InvalidInput(f"{self.name} was not run: {errors}", field=problems[0].path or "arguments")
        return values


def tool_parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a tool by name, without `self`."""
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def _check(function: Callable[..., Any]) -> None:
    parameters = tool_parameters(function)
    if not re.fullmatch(ID_PATTERN, getattr(function, MARK).name):
        raise refusal(function, "has a name that models refuse", "use at most 64 letters, digits, _ and -")
    if not (function.__doc__ or "").strip():
        raise refusal(function, "has no docstring", "say in it what the tool does: the model reads it")
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise refusal(function, f"takes {parameter}", "give each parameter a name of its own")
        if parameter.annotation is parameter.empty:
            raise refusal(function, f"does not say the type of {name!r}", f"write {name}: str, or the like")
    _check_options(function, getattr(function, MARK))
    for name in read_docstring(function.__doc__ or "")[1].keys() - parameters:
        raise refusal(function, f"describes {name!r}, which it does not take", "correct its docstring")


def _check_options(function: Callable[..., Any], declaration: Declaration) -> None:
    if declaration.timeout is not None and not declaration.timeout > 0:
        problem = f"has a timeout of {declaration.timeout!r}"
        raise refusal(function, problem, "give it seconds, or math.inf for no limit")
    if not 0 < declaration.max_chars <= MAX_RESULT_CHARS:
        raise refusal(
            function, f"has max_chars of {declaration.max_chars!r}", f"give it 1 to {MAX_RESULT_CHARS:,}"
        )
    for value, choices in ((declaration.effect, get_args(Effect)), (declaration.origin, get_args(Origin))):
        if value not in choices:
            raise refusal(function, f"says {value!r}", f"write one of {', '.join(choices)}")


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
