"""Agents that do what a program says, by the API that authors have."""

from __future__ import annotations

import functools
import json
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar

from meshwright import Agent, Capability, CheckResult, Run, tool
from meshwright.core.errors import DelegationFailed, ToolFailed, WaitExpired
from meshwright.core.files import File
from meshwright.tools import ToolContext, Toolset
from tests.support.walker.frameworks import Legs
from tests.support.walker.programs import TOOLS, Op, Request, agent_names, depth_of
from tests.support.walker.sessions import Sessions
from tests.support.walker.world import PRICE, World, job_in


class ProgramFailed(Exception):
    """The program says that its agent fails there."""


class WalkTools(Toolset):
    """The tools of all agents, in the world."""

    world: ClassVar[World]

    @tool(idempotent=True, effect="read")
    async def look(self, account: str, amount: int, context: ToolContext) -> str:
        """Look at an account."""
        return await self._act("look", account, amount, context)

    @tool(idempotent=True)
    async def pay(self, account: str, amount: int, context: ToolContext) -> str:
        """Pay, once for each key."""
        return await self._act("pay", account, amount, context)

    @tool(check="_was_mailed")
    async def mail(self, account: str, amount: int, context: ToolContext) -> str:
        """Send a mail."""
        return await self._act("mail", account, amount, context)

    @tool(check="_was_deployed", needs_approval=True)
    async def deploy(self, account: str, amount: int, context: ToolContext) -> str:
        """Deploy."""
        return await self._act("deploy", account, amount, context)

    @tool(idempotent=True, needs_approval=True)
    async def grant(self, account: str, amount: int, context: ToolContext) -> str:
        """Grant, once for each key."""
        return await self._act("grant", account, amount, context)

    @tool(check="_was_launched", needs_approval=True)
    async def launch(self, account: str, amount: int, context: ToolContext) -> str:
        """Launch."""
        return await self._act("launch", account, amount, context)

    async def _was_mailed(self, account: str, amount: int, step_id: str) -> CheckResult:
        return await self.world.check(Request("mail", account, amount), step_id)

    async def _was_deployed(self, account: str, amount: int, step_id: str) -> CheckResult:
        return await self.world.check(Request("deploy", account, amount), step_id)

    async def _was_launched(self, account: str, amount: int, step_id: str) -> CheckResult:
        return await self.world.check(Request("launch", account, amount), step_id)

    async def _act(self, name: str, account: str, amount: int, context: ToolContext) -> str:
        assert name in TOOLS
        return await self.world.do(Request(name, account, amount), context.task.task_id, context.step_id)


class Walker(Agent):
    """Does the job that its task names."""

    agent_id = "walker"
    capabilities = (Capability("walking"),)
    prompt_text = "You do jobs."
    remembers = False
    world: ClassVar[World]

    async def run(self, run: Run) -> Any:
        job = job_in(str(run.task.payload["text"]))
        program = self.world.program.get(job)
        if program is None:
            raise ProgramFailed(f"there is no {job} any more")
        return {"job": job, "results": await self._all(run, program.ops)}

    async def _all(self, run: Run, ops: Sequence[Op]) -> list[Any]:
        return [await self._do(run, op) for op in ops]

    async def _do(self, run: Run, op: Op) -> Any:
        match op.kind:
            case "tool":
                return await self._call(run, op)
            case "step":
                return await self._step(run, op)
            case "gather":
                branches: list[Coroutine[Any, Any, list[Any]]] = [self._all(run, ops) for ops in op.branches]
                return await run.gather(*branches)
            case "delegate":
                return await self._delegate(run, op)
            case "converse":
                return await run.converse()
            case "ask":
                return await self._ask(run, op)
            case "legs":
                return await Legs(run, self.world, op).results()
            case "session":
                return await Sessions(run, self.world, op).result()
        return await self._do_alone(run, op)

    async def _do_alone(self, run: Run, op: Op) -> Any:
        """Do what nobody is asked for."""
        match op.kind:
            case "sleep":
                return await run.sleep(op.seconds * self.world.pace)
            case "event":
                event = await run.wait_event(f"app.{op.name}")
                return event["event_type"]
            case "progress":
                return await run.progress(op.name)
            case "charge":
                return await self._charge(run, op)
            case "attach":
                await run.attach(File(name=f"{op.name}.txt", data=op.name.encode()))
                return op.name
            case "remember":
                return await run.remember(f"{op.name} was here", "agent")
        raise ProgramFailed(f"the program says so at {op.name}")

    async def _call(self, run: Run, op: Op) -> str:
        assert op.request is not None
        try:
            result = await run.call(op.request.tool, account=op.request.account, amount=op.request.amount)
        except ToolFailed as error:
            result = f"failed: {error}"
        self.world.read_result(op.request, result)
        return result

    async def _step(self, run: Run, op: Op) -> str:
        request = op.request
        assert request is not None

        async def act() -> str:
            return await self.world.do(request, run.task.task_id, run.step_id)

        async def check(step_id: str) -> CheckResult:
            return await self.world.check(request, step_id)

        result = await run.step(request.account, act, check=check)
        self.world.read_result(request, result)
        return result

    async def _delegate(self, run: Run, op: Op) -> Any:
        agent = self.world.program[op.job].agent
        try:
            result = await run.delegate(agent, f"job {op.job}", shape=dict[str, Any])
        except DelegationFailed as error:
            raise ProgramFailed(f"the delegation of {op.job} failed: {error}") from error
        self.world.read_child(op.job, _own(result))
        return _own(result)

    async def _ask(self, run: Run, op: Op) -> str:
        try:
            answer = await run.ask_person(op.name)
        except WaitExpired:
            return "expired"
        self.world.read_answer(op.name, answer)
        return answer

    async def _charge(self, run: Run, op: Op) -> None:
        async def act() -> None:
            await run.charge(PRICE, op.name)
            self.world.charged()

        await run.step(op.name, act)


def _own(result: Any) -> Any:
    """The answer of a job: a model gives it as text."""
    if isinstance(result, dict) and "job" not in result and isinstance(result.get("text"), str):
        try:
            return json.loads(result["text"])
        except ValueError:
            return result
    return result


def agents_for(world: World, missing: Sequence[str] = ()) -> list[type[Agent]]:
    """The agents of a process, without those whose files are away; all there are work in this world now."""
    WalkTools.world = Walker.world = world
    names = agent_names(world.program)
    return [_agent(name, _below(name, names)) for name in names if name not in missing]


def _below(name: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(agent for agent in names if depth_of(agent) == depth_of(name) + 1)


@functools.cache
def _agent(name: str, below: tuple[str, ...]) -> type[Agent]:
    fields = {"agent_id": name, "toolsets": (WalkTools,), "delegates_to": below}
    return type(f"Walker{name}", (Walker,), fields)
