"""The components that run agents: their prompts, their tools, and the worker of their tasks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from meshwright.agents.agent import Agent, AgentTypes
from meshwright.agents.context.memory import MemoryStore
from meshwright.agents.context.service import ContextClient
from meshwright.agents.context.settings import ContextSettings
from meshwright.agents.event_types import AgentCodeChanged, ToolOverran
from meshwright.agents.loader import (
    bind_agents,
    hash_code,
    needs_prompt,
    prompt_variables,
    prompts_brought,
    prompts_folder,
)
from meshwright.agents.prompts import Prompts, PromptSource, PromptSources
from meshwright.agents.prompts.sources import BUILT_IN
from meshwright.agents.run.limits import Parking
from meshwright.agents.run.runner import Runner
from meshwright.agents.run.state import Services
from meshwright.agents.run.tool_chain import tool_chain
from meshwright.agents.settings import AgentsSettings, PromptsSettings
from meshwright.agents.skills.catalog import Skills
from meshwright.agents.tools.limited_work import Overrun
from meshwright.agents.tools.settings import ApprovalsSettings, ToolsSettings
from meshwright.agents.tools.toolset import ToolSettings
from meshwright.agents.toolsets import Toolsets, can_do_nothing, kinds, unusable, without_agents
from meshwright.agents.trees.leases import Trees
from meshwright.core import topics
from meshwright.core.errors import ConfigError, PromptError, in_one_line
from meshwright.core.messages import Task
from meshwright.core.payloads import Payload
from meshwright.core.settings import Settings
from meshwright.core.settings.loading import FILE_NAME
from meshwright.engine.events.inbox_sources import WholeInbox
from meshwright.engine.events.settings import PeopleSettings
from meshwright.engine.events.task_lists import open_code
from meshwright.engine.kernel.guarantees import Subscription
from meshwright.engine.kernel.timers import Duty
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.folder import LOCK_NAME
from meshwright.engine.work import AgentThread, Worker
from meshwright.engine.work.entry import route_to_thread
from meshwright.engine.work.protocol import Reminder
from meshwright.engine.work.sharing import Sharing
from meshwright.mesh.components import Actors, Check, Component, call_hook
from meshwright.mesh.mesh import FRONT, Mesh
from meshwright.mesh.orchestration.settings import OrchestrationSettings
from meshwright.models.port import CallContext, GuessedWindow, Model, ModelWindow, ModelWindows
from meshwright.models.settings import ModelsSettings
from meshwright.money.budgets import Budgets
from meshwright.money.costs import usual_call
from meshwright.money.spending import Activity, read_activity

_MAX_NAMED = 8  # prompts that no agent reads


class PromptsComponent(Component):
    """The prompt files of the project, read again when they change."""

    name = "prompts"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        folder = prompts_folder(mesh.project, mesh.settings)
        agents = mesh.get(AgentTypes)
        prompts_in_code, own = prompts_brought(agents), prompt_variables(agents)
        self._folder = Prompts(folder, in_code=prompts_in_code, own=own, on_event=mesh.tell)
        seconds = mesh.settings[PromptsSettings].reload_seconds
        self.parts.append(Duty(mesh.runtime.clock, seconds, self._reload))

    def prompt_source(self) -> PromptSource:
        """The prompts folder. It is asked last, and has a prompt for every name."""
        return self._folder

    def assemble(self) -> None:
        """Take the prompt sources of all components."""
        self.mesh.provide(PromptSources(call_hook(self.mesh, lambda component: component.prompt_source())))

    def checks(self) -> Iterable[Check]:
        """Whether every agent has a prompt, and every prompt file can be used."""
        return [Check("prompts", self._check)]

    async def _check(self) -> str:
        elsewhere_names = {*self.mesh.get(PromptSources).names()} - {*self._folder.names()}
        agents = filter(needs_prompt, self.mesh.get(AgentTypes))
        needed = {agent.prompt: agent.agent_id for agent in agents}
        problems = self._folder.check({name: needed[name] for name in needed.keys() - elsewhere_names})
        if problems:
            more = f" (and {len(problems) - 1} more: mesh prompts check)" if len(problems) > 1 else ""
            raise PromptError(f"{problems[0]}{more}")
        elsewhere = f", {len(elsewhere_names)} of components" if elsewhere_names else ""
        names = self._folder.names()
        used_names = {*BUILT_IN, *(agent.prompt for agent in self.mesh.get(AgentTypes))}
        unread = [name for name in names if name not in used_names]
        listed = ", ".join(unread[:_MAX_NAMED]) + (", ..." if len(unread) > _MAX_NAMED else "")
        of_none = f", {len(unread)} of them read by no agent here: {listed}" if unread else ""
        folder = self._folder.directory
        where = folder if folder.is_dir() else f"the agents' code; there is no folder {folder}"
        notes = len(self._folder.notes())
        noted = f"; {notes} notes on them: mesh prompts check" if notes else ""
        return f"{len(names)} in {where}{elsewhere}{of_none}{noted}"

    async def _reload(self) -> None:
        self.mesh.get(PromptSources).reload()


class AgentsComponent(Component):
    """The agents of this process with their tools, and the worker that runs their tasks."""

    name = "agents"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = replace(tool_settings(mesh.settings, mesh.project), get=mesh.get)
        self._unusable = unusable(settings, mesh.get(AgentTypes))
        self._toolsets = Toolsets(settings, mesh.runtime.clock, mesh.tell)
        bound = bind_agents(
            agents_here(mesh), self._toolsets, self._overran, mesh.get(AgentTypes), mesh.get(Skills)
        )
        self._agents = mesh.provide(bound)
        self.parts += [self._toolsets, *self._agents.values()]
        self._codes = {agent.agent_id: hash_code(agent) for agent in mesh.get(AgentTypes)}

    def assemble(self) -> None:
        """Make the worker, over the model, the prompts and the memories of the mesh."""
        runner, runtime = Runner(self._services(), self._agents), self.mesh.runtime
        self._worker = self.mesh.provide(Worker(runtime, runner, self._slots, self._codes, runner.settle))
        runtime.attach(self._worker)
        self._worker.hold()
        self._sharing = Sharing(runtime, self._worker)

    async def start(self) -> None:
        """Start the agents, and say which have open tasks that began with other code."""
        await super().start()
        if self.mesh.role.is_front:
            await self._tell_changed_code()

    async def begin(self) -> None:
        """Begin the work that has been offered."""
        self._worker.begin()
        if self.mesh.runtime.is_shared:
            await self._sharing.start()

    async def _tell_changed_code(self) -> None:
        for agent_id, code, tasks, once in await self.mesh.log.view(open_code):
            if code != (now := self._codes.get(agent_id)):
                fields = {"agent_id": agent_id, "code": now, "before": code}
                self.mesh.tell(AgentCodeChanged(**fields, tasks=tasks, once=once))

    async def drain(self, seconds: float) -> None:
        """Start no more tasks, and let those that run end."""
        await self._sharing.stop()
        await self._worker.drain(seconds)

    def actors(self) -> Iterable[Actors]:
        """The threads of each agent."""
        max_tasks = self.mesh.settings[OrchestrationSettings].max_thread_tasks
        people = self.mesh.settings[PeopleSettings]
        reminder = Reminder(people.remind_seconds, people.then)
        settings = tool_settings(self.mesh.settings, self.mesh.project)
        has_broker = self.mesh.runtime.has_broker
        if not has_broker:  # the process that dispatches makes the messages, also those to agents elsewhere
            self.mesh.runtime.subscribe(_dispatches(topics.tasks("#")))
        for agent in self.mesh.get(AgentTypes):
            kind = ActorKind.from_class(
                AgentThread, type=agent.agent_id, max_tasks=max_tasks, reminder=reminder
            )
            tasks = (_dispatches(topics.tasks(agent.agent_id)),) if has_broker else ()
            yield Actors(kind, agent_app(agent, settings), tasks)

    def warnings(self) -> Iterable[str]:
        """The toolsets that cannot be used, and the tables that no agent has."""
        settings, agents = self._toolsets.settings, self.mesh.get(AgentTypes)
        wrong = (in_one_line(error.message, error.remedy) for error in self._unusable.values())
        return (*wrong, *without_agents(settings, agents))

    def checks(self) -> Iterable[Check]:
        """Which agents there are, and whether their toolsets start."""
        wrong = [Check(name, partial(_refuse, error)) for name, error in self._unusable.items()]
        return [Check("agents", self._check), *wrong, *self._toolsets.checks()]

    async def _check(self) -> str:
        return ", ".join(self._agents) or "none"

    def _services(self) -> Services:
        mesh, settings, models = self.mesh, self.mesh.settings, self.mesh.settings[ModelsSettings]
        parking = Parking(models.park_seconds, models.max_park_seconds) if models.park else None
        offers = reversed(call_hook(mesh, lambda component: component.tool_wrappers()))
        windows = mesh.get(ModelWindows)
        return Services(
            runtime=mesh.runtime,
            model=mesh.get(Model),
            context=mesh.get(ContextClient),
            memory=mesh.get(MemoryStore),
            prompts=mesh.get(PromptSources),
            tracing=mesh.tracing,
            clock=mesh.runtime.clock,
            seal=mesh.cipher.encrypt,
            tool_chain=tool_chain(wrapper for offer in offers for wrapper in offer),
            tool_timeout_seconds=settings[ToolsSettings].timeout_seconds,
            timeout_seconds=settings[AgentsSettings].timeout_seconds,
            limits=settings[AgentsSettings].limits,
            max_calls_per_reply=settings[AgentsSettings].max_calls_per_reply,
            max_chain=settings[AgentsSettings].max_chain,
            approvals=settings[ApprovalsSettings],
            patience_days=settings[PeopleSettings].patience_days,
            max_context_tokens=settings[ContextSettings].max_tokens,
            max_memory_tokens=settings[ContextSettings].memory_max_tokens,
            window=partial(_window, windows, settings[ContextSettings].window_tokens),
            price=windows.highest_price,
            stream=settings[ModelsSettings].stream,
            read_on_seconds=settings[ModelsSettings].read_on_seconds,
            parking=parking,
            budgets=mesh.get(Budgets),
            activity=self._activity if mesh.has_log else None,
            trees=self._trees(),
            skills=mesh.get(Skills),
            usual_call=partial(mesh.log.view, usual_call) if mesh.has_log else None,
        )

    def _trees(self) -> Trees | None:
        with suppress(LookupError):  # the part trees may be left out
            return self.mesh.get(Trees)
        return None

    async def _activity(self, tenant_id: str, since: datetime) -> Activity:
        activity = await read_activity(self.mesh.log, tenant_id, since, self.mesh.runtime.clock.now())
        decisions = await self.mesh.get(WholeInbox).count(tenant_id)
        return activity.model_copy(update={"decisions": decisions})

    def _slots(self, agent_id: str) -> int:
        own = self._agents[agent_id].agent.max_concurrency if agent_id in self._agents else None
        return own or self.mesh.settings[AgentsSettings].max_concurrency

    def _overran(self, overrun: Overrun) -> None:
        payload = ToolOverran(tool=overrun.tool, seconds=overrun.seconds, ended=overrun.has_ended)
        tell_task(self.mesh, payload, overrun.task, overrun.agent_id)


def _window(
    windows: ModelWindows,
    usual_tokens: int | None,
    model: str,
    tags: tuple[str, ...],
    tenant_id: str,
    agent_id: str,
) -> ModelWindow:
    window = windows.model_window(model, tags, tenant_id, agent_id)
    if window.input is None:
        return ModelWindow(usual_tokens, window.output)
    if isinstance(window, GuessedWindow) and usual_tokens is not None:
        return ModelWindow(usual_tokens)
    return window


async def _refuse(error: ConfigError) -> str:
    raise error


def _dispatches(pattern: str) -> Subscription:
    return Subscription(pattern, route_to_thread, "enqueue", sealed=True)


def agents_here(mesh: Mesh) -> list[type[Agent]]:
    """The agents whose tasks this process runs."""
    settings = tool_settings(mesh.settings, mesh.project)
    return [agent for agent in mesh.get(AgentTypes) if mesh.role.runs(agent_app(agent, settings))]


def agent_app(agent: type[Agent], settings: ToolSettings) -> str:
    """The app that runs an agent's tasks: its own, or the front where it reads the log or can do nothing."""
    return FRONT if agent.reads_log or can_do_nothing(agent, settings) else agent.agent_id


def tell_task(mesh: Mesh, payload: Payload, task: Task | CallContext, agent_id: str) -> None:
    """Put an event of a task into the log."""
    mesh.tell(payload, task_id=task.task_id, tenant_id=task.tenant_id, agent_id=agent_id)


def tool_settings(settings: Settings, project: Path) -> ToolSettings:
    """The settings of the agents' tools, which hide the mesh's own data and configuration."""
    data = project / settings.data_dir
    # A worker's folder lies in that of its stack, where the broker's and the store's secrets are.
    is_in_a_stack = settings.store == "dapr" and (data.parent / LOCK_NAME).exists()
    own = (data.parent if is_in_a_stack else data, Path(FILE_NAME), settings[ModelsSettings].config)
    return ToolSettings(
        project=project,
        workspace=project / settings[ToolsSettings].workspace,
        hidden=tuple(project / path for path in own),
        tables=settings[ToolsSettings].toolsets,
        kinds={kind: getattr(settings, kind) for kind in kinds()},
        allow_private_addresses=settings[ToolsSettings].allow_private_addresses,
        tool_timeout_seconds=settings[ToolsSettings].timeout_seconds,
        max_concurrency=settings[AgentsSettings].max_concurrency,
    )
