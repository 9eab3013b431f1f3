"""The class that authors of agents extend: it names the agent, its abilities and its tools.

    class Greeter(Agent):
        '''Greets people.'''

        agent_id = "greeter"
        capabilities = [Capability("greeting")]

Nothing here knows of brokers, retries or state. A prompt file of the agent's name says how it behaves.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, RootModel

from meshwright.agents.tools.toolset import Toolset
from meshwright.core.capability import Capability, Registration
from meshwright.core.errors import ConfigError, nearest
from meshwright.core.ids import ID_PATTERN, RUN_VARIABLES, VARIABLE_PATTERN
from meshwright.core.limits import MAX_DEADLINE_SECONDS, MAX_TIMEOUT_SECONDS, Limits, reserved_param
from meshwright.core.messages import Task
from meshwright.core.money import Budget

if TYPE_CHECKING:
    from meshwright.models.named_models import ModelSpec

_LISTS = ("capabilities", "toolsets", "skills", "fallbacks", "budgets", "delegates_to", "health_check_urls")
_SIMILAR = 0.8  # of names, from 0 to 1: so alike that one is taken for a misspelling of the other


class AgentTypes(tuple["type[Agent]", ...]):
    """The agents of a mesh, in this process or another."""


class Agent:
    """One kind of agent. The mesh makes one instance, which works on many tasks at once: keep no state here.

    Its `@tool` methods are its own tools. A base class of agents that is none itself is defined with
    `abstract=True`.
    """

    agent_id: ClassVar[str]
    """The name of the agent: 1 to 64 letters, digits, `_` and `-`. Names its topic and the `user` of its
    model calls."""
    capabilities: ClassVar[Sequence[Capability]]
    """The capabilities that callers may ask it for: at least one."""
    prompt: ClassVar[str] = ""
    """The name of a file in the prompt folder. Default: the agent's id."""
    toolsets: ClassVar[Sequence[type[Toolset] | str]] = ()
    """Tools that it shares with others, as classes, or by the names under which packages bring them."""
    skills: ClassVar[Sequence[str]] = ()
    """The names of its skills, or patterns like `*`."""
    answers: ClassVar[type[BaseModel] | None] = None
    """The pydantic model of its answers. None: text, or the shape that the caller wants."""
    task_tags: ClassVar[frozenset[str]] = frozenset()
    """Tags that callers may choose by `payload.tags` in place of the agent's own."""
    model: ClassVar[str] = ""
    """A group of models, or one named outright. "": what the prompt says."""
    fallbacks: ClassVar[Sequence[str]] = ()
    """Models to ask, in this order, when a `model` that is named outright fails."""
    model_specs: ClassVar[Sequence[ModelSpec]] = ()
    """How `model` and `fallbacks` are called. `create_agent` fills it."""
    num_retries: ClassVar[int | None] = None
    """Retries of a failed model call. None: the setting of the mesh."""
    params: ClassVar[Mapping[str, Any]] = {}
    """Further parameters of its model calls, like `{"reasoning_effort": "low"}`."""
    budgets: ClassVar[Sequence[Budget]] = ()
    """Money that the agent may spend, beside the budgets of the settings."""
    limits: ClassVar[Limits] = Limits()
    """Limits of one run, before those of the settings."""
    timeout: ClassVar[float | None] = None
    """Seconds that a step of its runs may take if callers say nothing. None: the setting."""
    deadline: ClassVar[float | None] = None
    """Seconds that its tasks may take if callers say nothing. None: the setting."""
    prompt_text: ClassVar[str] = ""
    """The prompt, if there is no prompt file."""
    variables: ClassVar[Mapping[str, str]] = {}
    """The texts for `{{name}}` in its prompt, like `{"environment": "staging"}`."""
    cache_options: ClassVar[Mapping[str, Any]] = {}
    """The cache that `create_agent` was asked for."""
    success_callbacks: ClassVar[Sequence[Callable[..., None]]] = ()
    """Functions of LiteLLM's form: each gets `(kwargs, response_obj, start_time, end_time)` of a successful
    model call, and must not block."""
    delegates_to: ClassVar[Sequence[str]] = ()
    """The ids of agents to which it may give tasks."""
    remembers: ClassVar[bool] = True
    """Whether its model has the tools `remember` and `recall`, if the mesh has memories."""
    reflects: ClassVar[bool] = False
    """Whether a model draws a lesson from each run that called tools, at one more call."""
    max_concurrency: ClassVar[int | None] = None
    """Tasks that a worker runs at once. None: the setting."""
    reads_log: ClassVar[bool] = False
    """Whether its tasks run in the process that has the event log, for `run.activity`."""
    health_check_urls: ClassVar[Sequence[str]] = ()
    """URLs that must answer for the agent to be chosen."""

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if abstract:
            return
        agent_id = getattr(cls, "agent_id", "")
        if not re.fullmatch(ID_PATTERN, agent_id):
            raise ConfigError(
                f"agent class {cls.__name__} has the agent_id {agent_id!r}",
                remedy='give it one of 1 to 64 letters, digits, "_" and "-", such as "my-agent"',
                field="agent_id",
            )
        _check_attributes(cls)
        _check_lists(cls)
        _check_variables(cls)
        _check_seconds(cls, "timeout", MAX_TIMEOUT_SECONDS)
        _check_seconds(cls, "deadline", MAX_DEADLINE_SECONDS)
        _check_capabilities(cls)
        _check_init(cls)
        if not isinstance(cls.limits, Limits):
            complaint = f"has limits that are no Limits: {cls.limits!r}"
            raise _refusal(cls, complaint, "Write limits = Limits(max_steps=...)", "limits")
        if cls.answers is not None and not _is_shape(cls.answers):
            raise ConfigError(
                f"agent {agent_id} answers {cls.answers!r}, which is no pydantic model with fields",
                remedy="name a class of yours with pydantic's BaseModel as its base",
                field="answers",
            )
        cls.prompt = _named_prompt(cls) or agent_id

    def tags(self, task: Task) -> Sequence[str] | None:
        """The tags of the task's model calls, which pick the deployment; by default of the prompt."""
        return None

    async def run(self, run: Any) -> str | dict[str, Any] | BaseModel:  # a Protocol would refuse Run
        """Work on a task, whose `Run` this gets, and return the answer: text, or a result of its own shape.

        The default prepares the context and lets the model and its tools converse; the model answers as
        `answers` says, or else in the shape that the task's caller wants. It may be run again after a crash,
        up to where it was: what must not be repeated goes through `run.step`.
        """
        shape = self.answers
        if shape is None and run.task.shape is not None:
            from meshwright.models.structure import answer_shape  # of a worker, which has loaded it

            shape = answer_shape(run.task.shape)
        if shape is None:
            return await run.converse()
        return (await run.converse(shape)).model_dump(mode="json", by_alias=True)

    @classmethod
    def registration(cls) -> Registration:
        """How the agent makes itself known."""
        return Registration(
            agent_id=cls.agent_id,
            name=cls.__name__,
            capabilities=tuple(cls.capabilities),
            health_check_urls=tuple(cls.health_check_urls),
            deadline=cls.deadline,
            metadata={
                "description": (cls.__doc__ or "").strip().partition("\n")[0],
                "prompt": cls.prompt,
                **({"skills": ", ".join(cls.skills)} if cls.skills else {}),
            },
        )


def _refusal(agent: type[Agent], complaint: str, remedy: str, field: str) -> ConfigError:
    return ConfigError(f"agent {agent.agent_id} {complaint}", remedy=remedy, field=field)


def _named_prompt(agent: type[Agent]) -> str:
    """The prompt that a class or a base of it names; not the one that an agent has by its id."""
    named = ((vars(cls).get("prompt"), getattr(cls, "agent_id", None)) for cls in agent.__mro__)
    return next((prompt for prompt, agent_id in named if prompt and prompt != agent_id), "")


def _check_attributes(agent: type[Agent]) -> None:
    """Refuse an attribute that is nearly one of an Agent's: it would have no effect, without a word."""
    names = [name for name in Agent.__annotations__ if name not in vars(agent)]
    for name, value in vars(agent).items():
        if hasattr(Agent, name) or name in Agent.__annotations__:
            continue
        is_data = not name.startswith("_") and not callable(value) and not hasattr(value, "__get__")
        if is_data and (close := nearest(name, names, cutoff=_SIMILAR)):
            complaint = f"has an attribute {name!r}, which an Agent does not know"
            raise _refusal(agent, complaint, f"Did you mean {close!r}? If not, give it another name", name)


def _check_seconds(agent: type[Agent], name: str, most: float) -> None:
    value = getattr(agent, name)
    if value is None or (isinstance(value, int | float) and 0 < value <= most):
        return
    remedy = f"Write seconds: over 0, at most {most:,}"
    raise _refusal(agent, f"has the {name} {value!r}", remedy, name)


def _check_lists(agent: type[Agent]) -> None:
    for name in _LISTS:
        value = getattr(agent, name, ())
        if isinstance(value, str) or not isinstance(value, Sequence):
            complaint = f"has {name} that are no list: {value!r}"
            raise _refusal(agent, complaint, f"Write {name} = [...], or a tuple with its comma", name)
    if agent.num_retries is not None and agent.num_retries not in range(11):
        complaint = f"has num_retries that are no whole number from 0 to 10: {agent.num_retries!r}"
        raise _refusal(agent, complaint, "Write num_retries = 3, or leave it out", "num_retries")
    if name := reserved_param(agent.params):
        complaint = f"has {name!r} among its params"
        raise _refusal(agent, complaint, "Say it in its prompt file, or in litellm_config.yaml", "params")
    for skill in agent.skills:
        if not isinstance(skill, str):
            complaint = f"has {skill!r} among its skills, which is no name"
            raise _refusal(agent, complaint, 'Write skills = ("pdf-forms",), or ("*",) for all', "skills")
    for toolset in agent.toolsets:
        if not (isinstance(toolset, str) or (isinstance(toolset, type) and issubclass(toolset, Toolset))):
            complaint = f"has {toolset!r} among its toolsets, which is no class of a Toolset"
            raise _refusal(agent, complaint, "Name the class, as in toolsets = [FileTools]", "toolsets")


def _check_variables(agent: type[Agent]) -> None:
    if not isinstance(agent.variables, Mapping):
        complaint = f"has variables that are no mapping: {agent.variables!r}"
        raise _refusal(agent, complaint, 'Write variables = {"environment": "staging"}', "variables")
    for name, text in agent.variables.items():
        is_name = isinstance(name, str) and re.fullmatch(VARIABLE_PATTERN, name)
        if not is_name or name in RUN_VARIABLES or not isinstance(text, str):
            complaint = f"has the variable {name!r}: {text!r}"
            remedy = f"Write a lower-case name, other than {' and '.join(RUN_VARIABLES)}, and a text"
            raise _refusal(agent, complaint, remedy, "variables")


def _check_capabilities(agent: type[Agent]) -> None:
    capabilities = getattr(agent, "capabilities", ())
    example = 'such as capabilities = [Capability("general-query")]'
    if not capabilities:
        raise _refusal(agent, "declares no capabilities", f"Name what it can do, {example}", "capabilities")
    for capability in capabilities:
        if not isinstance(capability, Capability):
            complaint = f"has {capability!r} among its capabilities, which is no Capability"
            raise _refusal(agent, complaint, f"Write Capability(...) around it, {example}", "capabilities")
    names = [capability.name for capability in capabilities]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _refusal(agent, f"has the capability {twice!r} twice", "Take one of them out", "capabilities")


def _check_init(agent: type[Agent]) -> None:
    parameters = list(inspect.signature(agent.__init__).parameters.values())[1:]
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        complaint = (
            f"has an __init__ that needs {', '.join(needed)}: the mesh makes an agent without arguments"
        )
        remedy = "Give them defaults, or make what it needs a Toolset, which gets the settings"
        raise _refusal(agent, complaint, remedy, "__init__")


def _is_shape(answers: Any) -> bool:
    return isinstance(answers, type) and issubclass(answers, BaseModel) and not issubclass(answers, RootModel)
