"""An experiment of a front is applied by workers of other processes, also when one of them is killed."""

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright import Agent, Capability, Run
from tests.engine.integration.test_postgres_workers import process, ready
from tests.support.configured_agents import ADMIN, AS_ADMIN
from tests.support.fake_provider import FakeProvider
from tests.support.postgres import Address
from tests.support.running_stack import kill, stack_up

PROMPTS = ("Be kind.", "Be brief.")
THREADS = [f"thread-{number}" for number in range(16)]
GO = Path("go")


class Greeter(Agent):
    """Asks its model twice, and waits in between until the test goes on."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    remembers = False
    max_concurrency = 4
    prompt_text = "Greet as the file says."

    async def run(self, run: Run) -> str:
        pid = await run.step("pid", self.pid)
        await run.ask(f"{run.task.text} first {pid}")
        while not GO.exists():
            await asyncio.sleep(0.02)
        return await run.ask(f"{run.task.text} second {os.getpid()}")

    async def pid(self) -> int:
        return os.getpid()


HEAD = """\
import asyncio
import os
from pathlib import Path

from meshwright import Agent, Capability, Run

"""


def project(folder: Path) -> Path:
    """A project with the agent, whose tasks go on when the file that this returns is there."""
    (folder / "actors").mkdir()
    source = f'{HEAD}GO = Path("{folder / GO}")\n\n\n{inspect.getsource(Greeter)}'
    (folder / "actors" / "greeter.py").write_text(source)
    return folder / GO


def settings(fake: FakeProvider) -> dict[str, str]:
    return {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{fake.url}/v1", "MESH_ADMIN_TOKEN": ADMIN}


def asked(fake: FakeProvider) -> set[tuple[str, str, str, str]]:
    """The calls of the model: thread, which of the two, process, and the prompt that it was asked with."""
    messages = [call.body["messages"] for call in fake.calls]
    return {(*each[-1]["content"].split(), each[0]["content"]) for each in messages}


async def called(fake: FakeProvider, holds: Callable[[set[tuple[str, str, str, str]]], Any]) -> None:
    """Wait until the calls are as wanted."""
    async with asyncio.timeout(120):
        while not holds(asked(fake)):
            fake.arrived.clear()
            await fake.arrived.wait()


class Front:
    """A front, asked over HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with self._http.request(method, f"{self._url}{path}", json=body, headers=AS_ADMIN) as answer:
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def experiment(self) -> None:
        """Run an experiment of two versions of the agent's prompt over live tasks."""
        await self.call("POST", "/v1/prompts", {"name": "greeter", "template": PROMPTS[0]})
        await self.call("PUT", "/v1/prompts/greeter", {"template": PROMPTS[1]})
        variants = [{"name": f"v{version}", "version": version} for version in (1, 2)]
        wanted = {"name": "Brief", "agent_id": "greeter", "variants": variants}
        made = await self.call("POST", "/v1/experiments", wanted)
        await self.call("POST", f"/v1/experiments/{made['experiment_id']}/run", {})

    async def submit(self) -> dict[str, str]:
        """Submit a task to each thread; returns the prompt of the variant that each has got."""
        for thread in THREADS:
            task = {"agent_id": "greeter", "thread_id": thread, "payload": {"text": thread}}
            await self.call("POST", "/tasks", task)
        page = await self.call("GET", f"/events?event_type=task.accepted&order=desc&limit={len(THREADS)}")
        accepted = [event["payload"] for event in page["items"]]
        chosen = {payload["thread_id"]: payload["variants"][0]["name"] for payload in accepted}
        return {thread: PROMPTS[int(name[1]) - 1] for thread, name in chosen.items()}

    async def workers(self, count: int) -> None:
        """Wait until so many processes take work."""
        async with asyncio.timeout(120):
            while len((await self.call("GET", "/figures"))["workers"]) < count:
                await asyncio.sleep(0.05)

    async def ended(self, count: int) -> None:
        """Wait until so many tasks have succeeded."""
        async with asyncio.timeout(240):
            while True:
                items = (await self.call("GET", "/tasks?limit=100"))["items"]
                assert {item["status"] for item in items} <= {
                    "succeeded",
                    "running",
                    "dispatched",
                    "accepted",
                }
                if [item["status"] for item in items].count("succeeded") == count:
                    return


def begun_by(calls: set[tuple[str, str, str, str]]) -> dict[str, set[str]]:
    """The threads whose tasks each process has begun."""
    processes: dict[str, set[str]] = {}
    for thread, which, pid, _ in calls:
        if which == "first":
            processes.setdefault(pid, set()).add(thread)
    return processes


def prompts_of(calls: set[tuple[str, str, str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for thread, _, _, prompt in calls:
        found.setdefault(thread, set()).add(prompt)
    return found


async def test_a_worker_on_postgres_applies_variants_and_another_keeps_them_when_it_is_killed(
    tmp_path: Path, postgres_url: Address, fake: FakeProvider
) -> None:
    go, environment = project(tmp_path), settings(fake)
    up = ("up", "--port", "0", "--trust")
    async with (
        aiohttp.ClientSession() as http,
        process(tmp_path / "front", postgres_url, *up, **environment) as first,
    ):
        front = Front(http, await ready(first))
        await front.experiment()
        async with process(tmp_path / "worker", postgres_url, "worker", "--trust", **environment) as worker:
            await front.workers(2)
            chosen = await front.submit()
            assert set(chosen.values()) == set(PROMPTS)
            await called(fake, lambda calls: str(worker.pid) in begun_by(calls))
            of_worker = begun_by(asked(fake))[str(worker.pid)]
            worker.kill()
            await worker.wait()
        go.touch()
        await front.ended(len(THREADS))
        calls = asked(fake)
        assert prompts_of(calls) == {thread: {prompt} for thread, prompt in chosen.items()}
        went_on = {pid for thread, which, pid, _ in calls if which == "second" and thread in of_worker}
        assert went_on == {str(first.pid)}
        async with process(tmp_path / "later", postgres_url, *up, **environment) as second:
            later = Front(http, await ready(second))
            assert await later.submit() == chosen  # a thread keeps its variant at any front
            await later.ended(2 * len(THREADS))
        assert prompts_of(asked(fake)) == {thread: {prompt} for thread, prompt in chosen.items()}


@pytest.mark.soak(
    "the variant travels with the task, as on PostgreSQL; test_prompt_registry_workers.py reads prompts"
)
@pytest.mark.needs("mosquitto", "redis-server")
async def test_a_worker_on_dapr_applies_variants_and_keeps_them_when_it_is_killed(
    tmp_path: Path, fake: FakeProvider
) -> None:
    go = project(tmp_path)
    environment = settings(fake) | {"MESH_AGENTS__DIR": str(tmp_path / "actors")}
    async with (
        stack_up(tmp_path / "data", "--trust", "--replicas", "2", **environment) as stack,
        aiohttp.ClientSession() as http,
    ):
        front, worker = Front(http, stack.url), stack.pids["mesh-1"]
        await front.experiment()
        chosen = await front.submit()
        assert set(chosen.values()) == set(PROMPTS)
        await called(fake, lambda calls: str(worker) in begun_by(calls))
        kill(worker)
        go.touch()
        await front.ended(len(THREADS))
        assert prompts_of(asked(fake)) == {thread: {prompt} for thread, prompt in chosen.items()}
        assert await stack.stop() == 0
