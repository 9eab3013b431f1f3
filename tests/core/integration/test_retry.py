"""Work that is done again: after each kind of fault it goes on behind the finished steps, on each store."""

import asyncio
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.core.errors import Conflict, InvalidInput, MeshError, NotFound
from meshwright.core.messages import Outcome
from meshwright.mesh.orchestration.reruns import ForkResult
from tests.journeys.integration.test_simulated_kills_dapr import UP as DAPR_UP
from tests.run import DAPR
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.running_mesh import UP, RunningMesh, all_of, mesh, mesh_up, start

EARNED = Decimal("0.0006")  # by the provider, for each call
USAGE = {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40}
LOOK_SECONDS = 0.05
CLAIMS = 3  # that end without a finished step; then the task fails
AGENTS = '''
"""Agents that fail behind their first step as long as there is a file of the fault's name."""

import asyncio
import os
from pathlib import Path

from meshwright import Agent, Capability, Run

FAULTS = Path({faults!r})


class Worker(Agent):
    """Asks, meets a fault, asks again."""

    agent_id = "worker"
    capabilities = (Capability("working"),)
    delegates_to = ("helper",)

    async def run(self, run: Run) -> str:
        fault = run.task.text
        await run.ask(f"{{fault}} first")
        if fault == "person":
            said = await run.ask_person("Go on?")
            if said != "yes" and (FAULTS / fault).exists():
                raise ValueError("a person said no")
        elif fault == "tree":
            helped = [run.delegate("helper", name, timeout=1) for name in ("slow", "quick")]
            await run.gather(*helped)
        elif (FAULTS / fault).exists():
            await self.meet(run, fault)
        await run.ask(f"{{fault}} second" + " and more" * 2_000 * (fault == "money"))
        return "done"

    async def meet(self, run: Run, fault: str) -> None:
        if fault == "bug":
            raise ValueError("a bug")
        if fault == "process":
            await run.step("die", self.die)
        if fault in ("deadline", "cancel"):
            await run.sleep(60)

    async def die(self) -> None:
        os._exit(9)


class Helper(Agent):
    """Asks, and is slow."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str:
        first = await run.ask(f"helper {{run.task.text}}")
        if run.task.text == "slow" and (FAULTS / "tree").exists():
            await run.step("slow", self.wait)
        return first

    async def wait(self) -> None:
        await asyncio.sleep(60)
'''
OF_ALL_STORES = ["bug", "person", "money", "deadline", "cancel", "provider", "tree"]


class Failing:
    """A mesh whose agents fail, and its provider."""

    def __init__(self, running: RunningMesh, provider: FakeProvider, faults: Path) -> None:
        self.running, self.provider, self.faults = running, provider, faults

    async def failed(self, fault: str) -> str:
        """Have a task fail by a fault."""
        client, fields = self.running.client, _FIELDS.get(fault, {})
        (self.faults / fault).touch()
        if fault == "provider":
            self.provider.faults.extend([Fault(kind="slow"), Fault(status=400)])
        receipt = await client.submit("worker", fault, **fields)
        if fault == "cancel":
            await self._waits(receipt.task_id)
            await client.cancel(receipt.task_id)
        if fault == "person":
            await self._waits(receipt.task_id)
            [question] = await client.inbox()
            await client.answer(question, "no")
        outcome = await client.outcome(receipt.task_id)
        assert not outcome.success, outcome
        return receipt.task_id

    async def repair(self, fault: str, task_id: str) -> None:
        (self.faults / fault).unlink()
        if fault == "money":
            done = await mesh("budgets", "raise", task_id, "1", "--url", self.running.url)
            assert done.status == 0, done.err

    async def _waits(self, task_id: str) -> None:
        while (await self.running.client.task(task_id)).status != "waiting":
            await asyncio.sleep(LOOK_SECONDS)

    def asked(self) -> Counter[str]:
        """How often the provider was asked what."""
        said = (str(call.body["messages"][-1]["content"]) for call in self.provider.calls)
        return Counter(" ".join(text.split()[:2]) for text in said)


_FIELDS: dict[str, dict[str, Any]] = {"deadline": {"deadline": 2}, "money": {"budget_usd": "0.02"}}


def environment_of(folder: Path, provider: FakeProvider) -> dict[str, str]:
    faults = folder / "faults"
    (folder / "actors").mkdir()
    faults.mkdir()
    (folder / "actors" / "failing.py").write_text(AGENTS.format(faults=str(faults)))
    return {
        "MESH_AGENTS__DIR": str(folder / "actors"),
        "MESH_MODELS__ADAPTER": "http",
        "MESH_MODELS__BASE_URL": provider.url,
        "MESH_LEDGER__DEFAULT_PRICE": '{"input": "10", "output": "20"}',
    }


@asynccontextmanager
async def failing(folder: Path, up: list[str], **environment: str) -> AsyncIterator[Failing]:
    async with FakeProvider(usage=USAGE) as provider:
        known = environment_of(folder, provider) | environment
        async with mesh_up(folder / "data", up=up, **known) as running:
            yield Failing(running, provider, folder / "faults")


async def goes_on(mesh: Failing, fault: str, kept: int) -> Outcome:
    """Have a task fail, repair its fault, and let it go on behind its finished steps."""
    task_id = await mesh.failed(fault)
    client = mesh.running.client
    planned = await client.retry(task_id, begin="journal", dry_run=True)
    assert (planned.begin, planned.is_dry) == ("journal", True)
    assert planned.steps_kept >= kept
    await mesh.repair(fault, task_id)
    again = await client.retry(task_id, begin="journal" if fault in ("bug", "person") else None)
    assert (again.begin, again.generation, again.steps_kept) == ("journal", 2, planned.steps_kept)
    outcome = await client.outcome(task_id)
    assert (outcome.text, outcome.generation) == ("done", 2), (fault, outcome)
    assert not [task for task in await client.tasks() if task.status != "succeeded"]
    assert await client.inbox() == []
    return outcome


async def check_accounts(mesh: Failing) -> None:
    """Nothing was asked twice, and provider, ledger and outcomes agree."""
    client = mesh.running.client
    refused = {"provider second": 1} if "provider second" in mesh.asked() else {}
    repeated = mesh.asked() - Counter(refused)
    assert set(repeated.values()) == {1}, repeated
    spent = (await client.costs()).total
    outcomes = [
        await client.outcome(task.task_id) for task in await client.tasks() if not task.parent_task_id
    ]
    assert spent.cost_usd == sum(outcome.cost_usd or 0 for outcome in outcomes) == len(repeated) * EARNED


async def check_forks(mesh: Failing, task_id: str) -> None:
    """A fork goes on behind a step, at the cost of what comes after it alone; the other stays as it is."""
    client = mesh.running.client
    before, steps = await client.task(task_id), await client.steps(task_id)
    asked = next(step.path for step in steps if step.kind == "model")
    helped = next(step for step in reversed(steps) if step.kind == "delegate" and step.status == "done")
    calls = mesh.asked()
    planned = await client.fork(task_id, asked, attempt=steps[0].attempt, dry_run=True)
    assert (planned.task_id, planned.is_dry, planned.agent_id) == (None, True, "worker")
    forks = [
        await client.fork(task_id, asked, attempt=steps[0].attempt),
        await client.fork(task_id, helped.path),  # of the attempt that went on from the journal of the first
    ]
    outcomes = [await client.outcome(str(fork.task_id)) for fork in forks]
    assert [outcome.text for outcome in outcomes] == ["done", "done"]
    more = mesh.asked() - calls
    assert more["tree second"] == 2 and more["helper slow"] >= 1 and not more["tree first"], more
    assert sum(outcome.cost_usd or 0 for outcome in outcomes) == sum(more.values()) * EARNED
    again = await client.fork(str(forks[0].task_id), asked)  # a fork of a fork
    assert (await client.outcome(str(again.task_id))).text == "done"
    assert mesh.asked()["tree first"] == 1
    assert await client.task(task_id) == before
    await check_origin(mesh, forks[0], asked)


async def check_origin(mesh: Failing, fork: ForkResult, step: str) -> None:
    """A fork says where it comes from, in its record, its first event and its steps."""
    client, task_id = mesh.running.client, str(fork.task_id)
    origin = (await client.task(task_id)).forked_from
    assert origin == fork.forked_from and origin is not None and origin.step == step
    first = (await client.events(task_id=task_id, limit=1_000))[0]
    assert (first.event_type, first.fields["forked_from"]["task_id"]) == ("task.accepted", origin.task_id)
    steps = await client.steps(task_id)
    copied = [shown for shown in steps if shown.is_copied]
    assert copied and copied[-1].path == step and len(copied) == fork.steps_kept < len(steps)
    assert {(shown.calls, shown.cost_usd) for shown in copied} == {(0, None)}
    with pytest.raises(NotFound, match="no finished step '99'"):
        await client.fork(task_id, "99")
    with pytest.raises(NotFound, match="no attempt 9"):
        await client.fork(task_id, step, attempt=9)


STORES = [
    "sqlite",
    "postgres",
    pytest.param(
        "dapr", marks=[pytest.mark.needs(*DAPR), pytest.mark.soak("the same on SQLite and PostgreSQL")]
    ),
]


@pytest.mark.parametrize("store", STORES)
async def test_work_goes_on_behind_its_finished_steps(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment: dict[str, str] = {}
    if store == "postgres":
        environment["MESH_DATABASE"] = str(request.getfixturevalue("postgres_url"))
    async with failing(tmp_path, DAPR_UP if store == "dapr" else UP, **environment) as mesh:
        ended = {fault: await goes_on(mesh, fault, kept=2) for fault in OF_ALL_STORES}
        await check_accounts(mesh)
        await check_forks(mesh, ended["tree"].task_id)
        if store == "dapr":  # where a worker is started again by itself
            (mesh.faults / "process").touch()
            with suppress(aiohttp.ClientError):
                await mesh.running.post("/tasks", POISON)
            await goes_on_after_its_process(mesh)


POISON = {"task_id": "poison", "agent_id": "worker", "payload": {"text": "process"}}


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_a_task_that_ended_its_process_goes_on(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with FakeProvider(usage=USAGE) as provider:
        environment = environment_of(tmp_path, provider)
        if store == "postgres":
            environment["MESH_DATABASE"] = str(request.getfixturevalue("postgres_url"))
        (tmp_path / "faults" / "process").touch()
        async with mesh_up(tmp_path / "data", **environment) as running:
            with suppress(aiohttp.ClientError):  # it may be quicker than its receipt
                await running.post("/tasks", POISON)
            await running.process.wait()
        for _ in range(CLAIMS):
            command = [*UP, "--port", "0", "--data", str(tmp_path / "data")]
            process = await start(command, environment, stdout=DEVNULL, stderr=DEVNULL)
            await process.wait()
        async with mesh_up(tmp_path / "data", **environment) as running:
            await goes_on_after_its_process(Failing(running, provider, tmp_path / "faults"))


async def goes_on_after_its_process(mesh: Failing) -> None:
    client, failed = mesh.running.client, None
    while failed is None:
        with suppress(MeshError):  # its worker has ended, and is started again
            failed = await client.outcome("poison")
        await asyncio.sleep(LOOK_SECONDS)
    assert failed.error is not None and failed.error.type == "BrokeOff"
    (mesh.faults / "process").unlink()
    again = await client.retry("poison")
    assert (again.begin, again.steps_kept) == ("journal", 2)
    outcome = await client.outcome("poison")
    assert (outcome.text, outcome.cost_usd) == ("done", 2 * EARNED)
    asked = mesh.asked()
    assert (asked["process first"], asked["process second"]) == (1, 1)


async def test_what_failed_is_listed_by_cause_and_worked_on_again(tmp_path: Path) -> None:
    async with failing(tmp_path, UP) as mesh_:
        running, url = mesh_.running, ("--url", mesh_.running.url)
        tasks = [await mesh_.failed("bug") for _ in range(3)]
        [letters] = await running.client.dead_letters()
        assert (letters.agent_id, letters.error, letters.tasks) == ("worker", "ValueError", 3)
        with pytest.raises(NotFound, match="workr"):
            await running.client.retry_all(agent_id="workr")
        with pytest.raises(InvalidInput, match="all: true"):
            await running.client.retry_all()
        with pytest.raises(NotFound, match="Known are ValueError"):
            await running.client.retry_all(error="Other")
        planned = await mesh("retry", "--agent", "worker", "--error", "ValueError", "--dry-run", *url)
        assert (planned.status, planned.out.count("would begin from the start")) == (0, 3)
        unconfirmed = await mesh("retry", "--all", *url)
        assert (unconfirmed.status, "--yes" in unconfirmed.err) == (2, True)
        (mesh_.faults / "bug").unlink()
        done = await mesh("retry", "-", *url, stdin="\n".join(tasks[:2]))
        assert (done.status, done.out.count("begins from the start")) == (0, 2), done.err
        outcomes = await all_of([running.client.outcome(task_id) for task_id in tasks[:2]])
        assert [outcome.generation for outcome in outcomes] == [2, 2]
        again = await mesh("retry", tasks[0], *url)
        assert (again.status, "has succeeded" in again.err) == (1, True)
        assert (await mesh("retry", "--all", "--yes", *url)).status == 0
        await running.client.outcome(tasks[2])
        assert await running.client.dead_letters() == []
        with pytest.raises(Conflict, match="succeeded"):
            await running.client.retry(tasks[2])
        events = [event.event_type async for event in running.client.follow(tasks[0])]
        assert events.count("task.retried") == 1 and events[-1] == "task.succeeded"
        (mesh_.faults / "bug").touch()
        asked = await mesh("ask", "worker", "bug", *url)
        assert (asked.status, "  again       mesh retry " in asked.err) == (1, True), asked.err
