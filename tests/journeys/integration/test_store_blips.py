"""The store is away for some seconds while calls run: they go on, and each takes effect once."""

import asyncio
import os
import signal
import socket
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from meshwright import Agent, Capability, CheckResult, Client, Run, TaskRequest, tool
from meshwright.engine.events.inbox import Question
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.parts.proving.processes import writer_pids
from tests.support.interrupted_mesh import kept
from tests.support.mesh_forks import Forked
from tests.support.postgres import Address, Cluster
from tests.support.running_mesh import MESH, start

KINDS = ("pay", "pay_async", "post", "checked", "step", "twice")
TASKS_A_KIND = 2


class Payer(Agent):
    """Pays in each way that a call can have."""

    agent_id = "payer"
    capabilities = (Capability("paying"),)
    remembers = False
    max_concurrency = 20
    payments: ClassVar[list[str]] = []
    begun: ClassVar[list[str]] = []
    checks: ClassVar[list[str]] = []
    in_threads: ClassVar[threading.Event]
    on_loop: ClassVar[asyncio.Event]

    async def run(self, run: Run) -> str:
        """Call the tool that the text names."""
        name, kind = run.task.text, run.task.text.split()[0]
        if kind == "step":
            return await run.step("charge", lambda: self._charge(name), repeatable=False)
        if kind == "twice":
            one, two = await asyncio.gather(
                run.call("pay", name=f"{name}a"), run.call("pay_async", name=f"{name}b")
            )
            return f"{one} {two}"
        return str(await run.call(kind, name=name))

    async def _charge(self, name: str) -> str:
        self.begun.append(name)
        await self.on_loop.wait()
        self.payments.append(name)
        return f"paid {name}"

    def _charge_in_thread(self, name: str) -> str:
        self.begun.append(name)
        self.in_threads.wait()
        self.payments.append(name)
        return f"paid {name}"

    @tool(timeout=200)
    def pay(self, name: str) -> str:
        """Pay in a thread."""
        return self._charge_in_thread(name)

    @tool(timeout=200)
    async def pay_async(self, name: str) -> str:
        """Pay on the event loop."""
        return await self._charge(name)

    @tool(idempotent=True, timeout=200)
    def post(self, name: str) -> str:
        """Pay by an interface that knows a repeat."""
        return self._charge_in_thread(name)

    @tool(timeout=200, check="was_paid")
    def checked(self, name: str) -> str:
        """Pay where the bank can be asked."""
        return self._charge_in_thread(name)

    async def was_paid(self, name: str) -> CheckResult:
        """Look too early: the bank shows nothing yet."""
        self.checks.append(name)
        return CheckResult.did_not_happen("the bank lists nothing")


@pytest.fixture(autouse=True)
def fresh_bank() -> None:
    Payer.payments, Payer.begun, Payer.checks = [], [], []
    Payer.in_threads, Payer.on_loop = threading.Event(), asyncio.Event()


@pytest.mark.parametrize("seconds", [3, 20])
async def test_calls_outlive_a_database_that_is_away(
    own_postgres: Cluster, tmp_path: Path, seconds: int
) -> None:
    async with kept(tmp_path, Payer, database=own_postgres.url()) as mesh:
        tasks = await begun(mesh)
        own_postgres.stop(signal.SIGINT)
        Payer.on_loop.set()  # half of them end while it is away
        await asyncio.sleep(seconds)
        own_postgres.start()
        Payer.in_threads.set()
        await each_takes_effect_once(mesh, tasks)


async def begun(mesh: Mesh) -> list[str]:
    """The tasks of each kind, once all their calls are under way."""
    names = [f"{kind} {n}" for kind in KINDS for n in range(TASKS_A_KIND)]
    requests = [
        TaskRequest(agent_id="payer", thread_id=name.replace(" ", "-"), payload={"text": name})
        for name in names
    ]
    receipts = [await mesh.get(Tasks).submit(request) for request in requests]
    while len(Payer.begun) < len(names) + TASKS_A_KIND:
        await asyncio.sleep(0.01)
    return [receipt.task_id for receipt in receipts]


async def each_takes_effect_once(mesh: Mesh, tasks: list[str]) -> None:
    for task_id in tasks:
        outcome = await mesh.get(Tasks).outcome(task_id)
        assert outcome is not None and outcome.success, outcome
    assert sorted(Payer.payments) == sorted(set(Payer.payments)) == sorted(Payer.begun)
    assert Payer.checks == []


SLOW_PAYER = """
import os
import time
from pathlib import Path

from meshwright import Agent, Capability, CheckResult, Run, tool


class Payer(Agent):
    agent_id = "payer"
    capabilities = (Capability("paying"),)
    remembers = False

    async def run(self, run: Run) -> str:
        return str(await run.call(run.task.text))

    @tool(timeout=200)
    def pay(self) -> str:
        '''Pay.'''
        self.note("began")
        while not Path("go").exists():
            time.sleep(0.02)
        self.note("paid")
        return f"paid by {os.getpid()}"

    @tool(timeout=200, check="was_paid")
    def checked(self) -> str:
        '''Pay where the bank can be asked.'''
        return self.pay()

    async def was_paid(self) -> CheckResult:
        self.note("checked")
        return CheckResult.did_not_happen("The bank lists nothing.")

    def note(self, word: str) -> None:
        with Path("notes").open("a") as file:
            file.write(f"{word} {os.getpid()}\\n")
"""


class Workers(NamedTuple):
    """Two processes of a mesh, and what their agent has noted."""

    one: Forked
    two: Forked
    of_one: Client
    of_two: Client
    folder: Path

    def notes(self) -> list[str]:
        """The notes of the agent, with the process that it ran in."""
        notes = self.folder / "notes"
        return notes.read_text().splitlines() if notes.exists() else []

    async def until_noted(self, *notes: str) -> None:
        """Wait until the agent has noted these."""
        while self.notes() != [*notes]:
            await asyncio.sleep(0.05)

    def freeze_one(self) -> list[int]:
        """Stop the first process and its writer as they are; returns their ids."""
        pids = [self.one.pid, *writer_pids(self.one.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    async def is_resumed(self, task_id: str, times: int) -> None:
        """Wait until a task of the first process was resumed by the second so many times."""
        async for event in self.of_two.follow(task_id):
            times -= event.event_type == "task.resumed"
            if not times:
                return


@asynccontextmanager
async def worker(folder: Path, name: str, database: Address) -> AsyncIterator[tuple[Forked, str]]:
    """A process of the mesh, and its address."""
    with (folder / f"{name}.log").open("wb") as log:
        command = [*MESH, "up", "--port", "0", "--trust", "--data", str(folder / name)]
        environment = {"MESH_DATABASE": database, "MESH_WRITER": "process"}
        process = await start(command, environment, cwd=folder, stdout=PIPE, stderr=log)
    assert isinstance(process, Forked) and process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("ready "), (folder / f"{name}.log").read_text()
        yield process, line.split()[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def two_workers(folder: Path, url: Address) -> AsyncIterator[Workers]:
    (folder / "actors").mkdir()
    (folder / "actors" / "payer.py").write_text(SLOW_PAYER)
    async with AsyncExitStack() as stack, asyncio.timeout(150):
        started = [await stack.enter_async_context(worker(folder, name, url)) for name in "ab"]
        clients = [await stack.enter_async_context(Client(address)) for _, address in started]
        yield Workers(started[0][0], started[1][0], *clients, folder)


async def test_a_yes_waits_for_a_call_that_a_frozen_worker_still_runs(
    tmp_path: Path, postgres_url: Address
) -> None:
    async with two_workers(tmp_path, postgres_url) as workers:
        task_id = (await workers.of_one.submit("payer", "pay")).task_id
        await workers.until_noted(f"began {workers.one.pid}")
        frozen = workers.freeze_one()
        try:
            question = await asked(workers.of_two)
            place = f"{socket.gethostname()}:{workers.one.pid}"
            assert f" in {place}, may still run" in question.question
            await workers.of_two.answer(question, {"approve": True})
            await workers.is_resumed(task_id, 2)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        (tmp_path / "go").touch()
        outcome = await workers.of_two.outcome(task_id)
        assert outcome.text == f"paid by {workers.one.pid}"
        assert workers.notes() == [f"began {workers.one.pid}", f"paid {workers.one.pid}"]


async def asked(client: Client) -> Question:
    while not (questions := await client.inbox()):
        await asyncio.sleep(0.05)
    return questions[0]


async def test_a_check_waits_for_a_call_that_a_frozen_worker_still_runs(
    tmp_path: Path, postgres_url: Address
) -> None:
    async with two_workers(tmp_path, postgres_url) as workers:
        task_id = (await workers.of_one.submit("payer", "checked")).task_id
        await workers.until_noted(f"began {workers.one.pid}")
        frozen = workers.freeze_one()
        try:
            await workers.is_resumed(task_id, 1)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        (tmp_path / "go").touch()
        assert (await workers.of_two.outcome(task_id)).text == f"paid by {workers.one.pid}"
        assert workers.notes() == [f"began {workers.one.pid}", f"paid {workers.one.pid}"]


async def test_a_late_result_answers_the_question_about_its_call(
    tmp_path: Path, postgres_url: Address
) -> None:
    async with two_workers(tmp_path, postgres_url) as workers:
        task_id = (await workers.of_one.submit("payer", "pay")).task_id
        await workers.until_noted(f"began {workers.one.pid}")
        frozen = workers.freeze_one()
        try:
            await asked(workers.of_two)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        (tmp_path / "go").touch()
        assert (await workers.of_two.outcome(task_id)).text == f"paid by {workers.one.pid}"
        assert await workers.of_two.inbox() == []


async def test_a_yes_goes_on_once_a_frozen_worker_was_killed(tmp_path: Path, postgres_url: Address) -> None:
    async with two_workers(tmp_path, postgres_url) as workers:
        task_id = (await workers.of_one.submit("payer", "pay")).task_id
        await workers.until_noted(f"began {workers.one.pid}")
        workers.freeze_one()
        await workers.of_two.answer(await asked(workers.of_two), {"approve": True})
        await workers.is_resumed(task_id, 2)
        for pid in (workers.one.pid, *writer_pids(workers.one.pid)):
            os.kill(pid, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert (await workers.of_two.outcome(task_id)).text == f"paid by {workers.two.pid}"
        assert [note.split()[0] for note in workers.notes()] == ["began", "began", "paid"]
