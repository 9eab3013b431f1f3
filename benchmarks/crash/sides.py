"""A framework at its task, by itself or in a mesh: started, killed at places, and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.crash.outside import CALLS, CrashProvider, Places, Shop
from benchmarks.crash.shop_tools import TASK
from benchmarks.rivals import installed
from meshwright.client import MeshUnreachable
from tests.support.running_mesh import ROOT, RunningMesh, mesh_up
from tests.support.running_stack import children_of, gone

ALONE = {
    "pydantic-ai": "pydantic-ai-slim[openai]==2.68.0",
    "openai-agents": "openai-agents==0.24.0",
    "langgraph": "langgraph==1.2.24 langchain langchain-openai langgraph-checkpoint-sqlite",
    "agent-framework": "agent-framework-core==1.23.0 agent-framework-openai==1.17.0",
    "google-adk": "google-adk==2.13.0 anthropic==2.14.0 aiosqlite",
}
"""The packages of each framework by itself."""
QUESTION = "question"
"""The place where a task waits for a person."""
_LOOK_SECONDS = 0.05
_PRICE = '{"input": "10", "output": "20"}'
_COST = Decimal("0.011")  # of a call


class Scenario(NamedTuple):
    """The places at which the process is killed, one after the other, and what else goes wrong."""

    name: str
    kills: tuple[str, ...] = ()
    loses_reply: bool = False
    asks: bool = False


SCENARIOS = (
    Scenario("before the refund", ("refund:before",)),
    Scenario("behind the refund", ("refund:after",)),
    Scenario("between refund and notice", ("model:2",)),
    Scenario("four times", ("look_up:after", "refund:after", "model:2", "notify:after")),
    Scenario("while a person is asked", (QUESTION,), asks=True),
    Scenario("reply of the refund lost", loses_reply=True),
)


class Bounds(NamedTuple):
    """The bounds of a task: one that passes them did not end."""

    seconds: float = 300.0
    """Of each start, on a loaded machine: until it ends, or reaches the place where it is killed."""
    calls: int = 40
    questions: int = 20


BOUNDS = Bounds()


UNENDED = "did not end"


class BoundReached(Exception):
    """A task did not end within a bound; the message has the figure."""


class Trial(NamedTuple):
    """The end of a task, by the counts of the shop, the provider and the person."""

    fault: str
    """Empty where it ended well, else how it ended."""
    refunds: int
    notices: int
    calls: int
    questions: int
    cost_usd: Decimal | None = None
    """What the ledger has; None where there is none."""
    billed_usd: Decimal = Decimal(0)
    needed_calls: int = CALLS

    @property
    def text(self) -> str:
        """The trial in a cell of a table."""
        faults = [self.fault] * bool(self.fault)
        faults += [f"{self.refunds} refunds"] * (self.refunds != 1)
        faults += [f"{self.notices} notices"] * (self.notices != 1)
        faults += [f"{self.calls - self.needed_calls} calls again"] * (self.calls > self.needed_calls)
        faults += [f"asked {self.questions}"] * bool(self.questions)
        if self.cost_usd is not None and self.cost_usd != self.billed_usd:
            faults.append(f"ledger {self.cost_usd - self.billed_usd:+f}")
        return ", ".join(faults) or "right"


class Side(Protocol):
    """Software at the task."""

    async def start(self) -> None:
        """Start it, or start it again."""

    async def kill(self) -> None:
        """Kill -9 it."""

    async def close(self) -> None:
        """End it."""

    async def is_asking(self) -> bool:
        """Whether it waits for a person."""
        ...

    async def answer(self, shop: Shop) -> None:
        """Answer as a person does who looks into the books of the shop."""

    async def has_ended(self) -> bool | None:
        """Whether it ended well; None while it works."""
        ...

    async def asked(self) -> int:
        """How often a person was asked."""
        ...

    async def cost_usd(self) -> Decimal | None:
        """The cost of the task in its ledger; None where it has no ledger, or no end."""


class Alone:
    """A framework by itself: a program that its supervisor starts again."""

    def __init__(self, framework: str, folder: Path, environment: dict[str, str]) -> None:
        self._framework, self._folder = framework, folder
        self._environment = {**environment, "CRASH_FOLDER": str(folder), "PYTHONPATH": str(ROOT)}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, or start it again."""
        python = await installed(ALONE[self._framework])
        command = [str(python), "-m", "benchmarks.crash.alone", self._framework]
        with (self._folder / "errors").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, env=os.environ | self._environment, stdout=DEVNULL, stderr=errors
            )

    async def kill(self) -> None:
        """Kill -9 it."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        """End it."""
        await self.kill()

    async def is_asking(self) -> bool:
        """Whether it waits for a person."""
        return self._questions() > 0

    async def answer(self, shop: Shop) -> None:
        """Say yes to whatever it asks."""
        (self._folder / "answer").touch()

    async def has_ended(self) -> bool | None:
        """Whether it ended well; None while it works."""
        assert self._process is not None
        if self._process.returncode is None:
            return None
        return (self._folder / "done").exists()

    async def asked(self) -> int:
        """How often a person was asked."""
        return self._questions()

    async def cost_usd(self) -> None:
        """There is no ledger."""

    def _questions(self) -> int:
        path = self._folder / "questions"
        return len(path.read_text().splitlines()) if path.exists() else 0


class InMesh:
    """A framework in the `run` of an agent, in `mesh up` on SQLite or PostgreSQL."""

    arguments: tuple[str, ...] = ()

    def __init__(self, framework: str, folder: Path, environment: dict[str, str]) -> None:
        self._framework, self._folder = framework, folder
        settings = {
            "MESH_MODELS__ADAPTER": "http",
            "MESH_MODELS__BASE_URL": environment["PROVIDER_URL"],
            "MESH_LEDGER__DEFAULT_PRICE": _PRICE,
            "PYTHONPATH": f"{ROOT / 'runtime'}:{ROOT}",
        }
        self._environment = environment | settings
        self._stack = AsyncExitStack()
        self._mesh: RunningMesh | None = None
        self._task_id = ""
        self._asked: set[str] = set()
        actors = folder / "actors"
        actors.mkdir()
        file = f"clerk_{framework.replace('-', '_')}.py"
        shutil.copy(Path(__file__).with_name(file), actors)

    async def start(self) -> None:
        """Start it, or start it again; the task is submitted once."""
        up = mesh_up(
            self._folder / "data",
            up=[python_of_frameworks(), "-m", "meshwright.cli", "up", *self.arguments],
            cwd=self._folder,
            **self._environment,
        )
        self._mesh = await self._stack.enter_async_context(up)
        if not self._task_id:
            self._task_id = await self._mesh.submit(TASK, agent_id=self._framework, capability="refunds")

    async def kill(self) -> None:
        """Kill -9 it."""
        assert self._mesh is not None
        await self._mesh.kill()
        await self._stack.aclose()

    async def close(self) -> None:
        """Stop it."""
        await self._stack.aclose()

    async def is_asking(self) -> bool:
        """Whether it waits for a person."""
        return bool(await self._inbox())

    async def answer(self, shop: Shop) -> None:
        """Answer as a person does who looks into the books of the shop."""
        assert self._mesh is not None
        for question in await self._inbox():
            self._asked.add(question.wait_id)
            schema = question.answer_schema or {}
            tool = str(question.subject.get("kind", "")).removeprefix("tool ")
            is_in_doubt = "result" in schema.get("properties", {})
            if is_in_doubt and shop.effects[tool]:
                await self._mesh.client.answer(question, {"approve": False, "result": f"{tool} is done"})
            else:
                await self._mesh.client.answer(question, {"approve": True})

    async def has_ended(self) -> bool | None:
        """Whether it ended well; None while it works."""
        assert self._mesh is not None
        try:
            task = await self._mesh.client.task(self._task_id)
        except MeshUnreachable:  # imports of frameworks hold its event loop up for seconds
            return None
        return None if task.outcome is None else task.outcome.success

    async def asked(self) -> int:
        """How often a person was asked."""
        return len(self._asked)

    async def cost_usd(self) -> Decimal | None:
        """The cost of the task in the ledger; None where it has no end."""
        assert self._mesh is not None
        task = await self._mesh.client.task(self._task_id)
        return None if task.outcome is None else task.outcome.cost_usd

    async def _inbox(self) -> list[Any]:
        assert self._mesh is not None
        try:
            return await self._mesh.client.inbox()
        except MeshUnreachable:  # imports of frameworks hold its event loop up for seconds
            return []


class OnDapr(InMesh):
    """The same in `mesh up --store dapr`, which is killed with all that it has started."""

    arguments = ("--store", "dapr")

    async def kill(self) -> None:
        """Kill -9 it: broker, Redis, sidecar and worker are killed with it."""
        assert self._mesh is not None
        process = self._mesh.process
        pids = children_of(process.pid)
        process.kill()
        await process.wait()
        await gone(pids)
        await self._stack.aclose()


def python_of_frameworks() -> str:
    """The interpreter that has the frameworks beside what Meshwright needs, from a lock."""
    install = [sys.executable, str(ROOT / "tests" / "support" / "frameworks" / "install")]
    return subprocess.run(install, capture_output=True, text=True, check=True).stdout.strip()


MakeSide = Callable[[str, Path, dict[str, str]], Side]


async def try_out(
    make: MakeSide,
    framework: str,
    scenario: Scenario,
    folder: Path,
    environment: dict[str, str],
    bounds: Bounds = BOUNDS,
) -> Trial:
    """Have a side do the task in a scenario, and report the outcome."""
    places = Places()
    async with CrashProvider(places) as provider, Shop(places) as shop:
        shop.loses_reply = scenario.loses_reply
        environment = {
            **environment,
            "PROVIDER_URL": provider.url,
            "SHOP_URL": shop.url,
            "CRASH_ASKS": str(int(scenario.asks)),
        }
        side = make(framework, folder, environment)
        try:
            fault = await Work(side, provider, shop, bounds).until_end(scenario, places)
            cost = None if fault.startswith(UNENDED) else await side.cost_usd()
        finally:
            await side.close()
        return Trial(
            fault,
            shop.effects["refund"],
            shop.effects["notify"],
            provider.requests,
            await side.asked(),
            cost,
            provider.requests * _COST,  # also one that was not received
            CALLS + scenario.loses_reply,
        )


class Work:
    """A side at its task, within bounds."""

    def __init__(self, side: Side, provider: CrashProvider, shop: Shop, bounds: Bounds) -> None:
        self._side, self._provider, self._shop, self._bounds = side, provider, shop, bounds

    async def until_end(self, scenario: Scenario, places: Places) -> str:
        """Start it, kill it at each place, and start it again; returns its fault, or nothing."""
        try:
            for place in scenario.kills:
                places.hold(place)
                if not await self._has_reached(place, places):
                    break
                await self._side.kill()
            else:
                await self._has_reached("", places)
        except BoundReached as bound:
            return str(bound)
        return "" if await self._side.has_ended() else "failed"

    async def _has_reached(self, place: str, places: Places) -> bool:
        """Start it and answer its questions until it is at a place; False where it ended before."""
        try:
            async with asyncio.timeout(self._bounds.seconds) as limit:
                await self._side.start()
                while not places.held.is_set() or not place:
                    is_asking = await self._side.is_asking()
                    if is_asking and place == QUESTION:
                        return True
                    if await self._side.has_ended() is not None:
                        return False
                    if is_asking:
                        await self._side.answer(self._shop)
                    await self._check()
                    await asyncio.sleep(_LOOK_SECONDS)
                return True
        except TimeoutError:
            if not limit.expired():
                raise
            raise BoundReached(f"{UNENDED} in {self._bounds.seconds:.0f} s") from None

    async def _check(self) -> None:
        if self._provider.requests >= self._bounds.calls:
            raise BoundReached(f"{UNENDED} in {self._bounds.calls} calls")
        if await self._side.asked() >= self._bounds.questions:
            raise BoundReached(f"{UNENDED} in {self._bounds.questions} questions")
