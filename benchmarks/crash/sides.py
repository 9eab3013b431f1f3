"""A framework at its task, by itself or in a mesh: started, killed at places, and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.crash.outside import CALLS, CrashProvider, Places, Shop
from benchmarks.crash.shop_tools import TASK
from benchmarks.rivals import installed
from meshwright.client import MeshUnreachable
from tests.support.running_mesh import ROOT, RunningMesh, mesh_up

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
_SECONDS = 900.0  # of a task, with its starts on a loaded machine
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


class Trial(NamedTuple):
    """The end of a task: whether it ended well, by the counts of the shop, the provider and the person."""

    has_ended: bool
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
        faults = [] if self.has_ended else ["not done"]
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

    async def result(self) -> tuple[int, Decimal | None]:
        """How often a person was asked, and what its ledger has."""
        ...


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

    async def result(self) -> tuple[int, Decimal | None]:
        """How often a person was asked, and what its ledger has."""
        return self._questions(), None

    def _questions(self) -> int:
        path = self._folder / "questions"
        return len(path.read_text().splitlines()) if path.exists() else 0


class InMesh:
    """A framework in the `run` of an agent, in `mesh up` on SQLite."""

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
            up=[python_of_frameworks(), "-m", "meshwright.cli", "up"],
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

    async def result(self) -> tuple[int, Decimal | None]:
        """How often a person was asked, and what the ledger has."""
        assert self._mesh is not None
        task = await self._mesh.client.task(self._task_id)
        return len(self._asked), None if task.outcome is None else task.outcome.cost_usd

    async def _inbox(self) -> list[Any]:
        assert self._mesh is not None
        try:
            return await self._mesh.client.inbox()
        except MeshUnreachable:  # imports of frameworks hold its event loop up for seconds
            return []


def python_of_frameworks() -> str:
    """The interpreter that has the frameworks beside what Meshwright needs, from a lock."""
    install = [sys.executable, str(ROOT / "tests" / "support" / "frameworks" / "install")]
    return subprocess.run(install, capture_output=True, text=True, check=True).stdout.strip()


MakeSide = Callable[[str, Path, dict[str, str]], Side]


async def try_out(
    make: MakeSide, framework: str, scenario: Scenario, folder: Path, environment: dict[str, str]
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
        has_ended, questions, cost = False, 0, None
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                has_ended = await _work(side, scenario, places, shop)
                questions, cost = await side.result()
        await side.close()
        effects = shop.effects
        billed = provider.requests * _COST  # also one that was not received
        return Trial(
            has_ended,
            effects["refund"],
            effects["notify"],
            provider.requests,
            questions,
            cost,
            billed,
            CALLS + scenario.loses_reply,
        )


async def _work(side: Side, scenario: Scenario, places: Places, shop: Shop) -> bool:
    for place in scenario.kills:
        places.hold(place)
        await side.start()
        while not (places.held.is_set() or (place == QUESTION and await side.is_asking())):
            if (has_ended := await side.has_ended()) is not None:
                return has_ended
            await _answer(side, shop, place)
            await asyncio.sleep(_LOOK_SECONDS)
        await side.kill()
    await side.start()
    while (has_ended := await side.has_ended()) is None:
        await _answer(side, shop)
        await asyncio.sleep(_LOOK_SECONDS)
    return has_ended


async def _answer(side: Side, shop: Shop, place: str = "") -> None:
    if place != QUESTION and await side.is_asking():
        await side.answer(shop)
