"""Maintenance of a mesh on Dapr: its tasks are compared with the log, and a restored Redis begins nothing."""

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Client, Run, TaskRequest
from meshwright.core.messages import Caller, Usage
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.mesh.app import StoreDeps, build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.parts.maintenance import operations
from meshwright.parts.maintenance.operations import Maintenance
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Backends
from meshwright.testing import ScriptedModel
from tests.run import DAPR
from tests.support.running_mesh import mesh as run_mesh
from tests.support.running_stack import gone, kill, stack_up
from tests.support.services import Services
from tests.support.settings import load_settings

SHARED = pytest.mark.soak("the log on PostgreSQL has tests of its own")
pytestmark = [pytest.mark.needs(*DAPR)]
NAMESPACE = "verifying"
TASKS = 6
ADMIN = Caller(requested_by="ada", all_tenants=True, roles=frozenset({"admin"}))
USAGE = Usage(prompt_tokens=100, completion_tokens=10)


class Clerk(Agent):
    """Asks its model, and a person where it is told to."""

    agent_id = "clerk"
    capabilities = (Capability("filing"),)

    async def run(self, run: Run) -> str:
        if run.task.text == "ask":
            await run.ask_person("May I?")
        return await run.ask(run.task.text)


@pytest.fixture(params=["own", pytest.param("postgres", marks=SHARED)])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    """The database of the event log: the front's own, or one that all workers share."""
    return {} if request.param == "own" else {"database": str(request.getfixturevalue("postgres_url"))}


@pytest.fixture
async def mesh(
    own_services: Services,
    database: dict[str, str],
    ports: Ports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Mesh]:
    """A whole mesh in this process, beside a sidecar."""
    [port] = ports.take(1)
    sidecar = own_services.daprd("mesh", port=port, namespace=NAMESPACE, pod=f"mesh-0_{NAMESPACE}")
    backends = Backends(own_services.broker_url, own_services.redis_host, own_services.redis_password)
    options = {"MESH_STORE": "dapr", "MESH_DAPR__NAMESPACE": NAMESPACE}
    for name, value in {**backends.environment(), **sidecar.app.environment(), **options}.items():
        monkeypatch.setenv(name, value)
    budget = {"name": "all", "scope": "mesh", "limit_usd": "9"}
    settings = load_settings(
        tmp_path,
        data_dir=tmp_path / "mesh-0",
        **database,
        ledger={"budgets": [budget], "default_price": {"input": "1", "output": "1"}},
    )
    reply = ModelReply(content="Filed.", model="m", usage=USAGE, cost_usd=Decimal("0.1"))
    model = ScriptedModel(reply, reply)
    mesh = build_mesh(settings, project=tmp_path, agents=[Clerk], model=model, runtime=without_redrive)
    sidecar.launch()
    try:
        async with mesh:
            yield mesh
    finally:
        sidecar.end()


def without_redrive(deps: StoreDeps) -> Runtime:
    """A host on Dapr that writes no actor unasked, which would take back what a test has changed."""
    options = Options.from_environment(namespace=NAMESPACE, channel="auto")
    options = replace(options, redrive_seconds=600.0)
    return deps.runtime(DaprStore(options, clock=deps.clock, log=deps.log, database=deps.database))


class Keys:
    """The actors' documents in Redis."""

    def __init__(self, services: Services) -> None:
        self._runtime, _, self._port = services.redis_host.partition(":")
        self._password = services.redis_password

    def command(self, *arguments: str) -> str:
        command = [
            "redis-cli",
            "-h",
            self._runtime,
            "-p",
            self._port,
            "--no-auth-warning",
            "-x",
            *arguments[:-1],
        ]
        done = subprocess.run(
            command, check=True, capture_output=True, input=arguments[-1], text=True,
            env={"REDISCLI_AUTH": self._password},
        )  # fmt: skip
        return done.stdout.removesuffix("\n")

    def change(self, actor: str, change: Callable[[str], str]) -> None:
        """Change the text of a document; its etag stays."""
        key = f"state||{NAMESPACE}/actor/{actor}"
        before = self.command("hget", key, "data")
        after = change(before)
        assert after != before
        self.command("hset", key, "data", after)


@pytest.fixture
def keys(mesh: Mesh, own_services: Services) -> Keys:
    return Keys(own_services)


async def submit(mesh: Mesh, text: str) -> str:
    return (await mesh.get(Tasks).submit(TaskRequest(agent_id="clerk", payload={"text": text}))).task_id


async def asked(mesh: Mesh) -> str:
    """An open task that waits for a person."""
    task_id = await submit(mesh, "ask")
    async for _ in mesh.log.tail(EventFilter(event_type="task.waiting", task_id=task_id, after_seq=0)):
        break
    return task_id


async def test_tasks_are_compared_with_the_log(
    mesh: Mesh, keys: Keys, database: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_PAGE", 2)
    ended = [await submit(mesh, "file") for _ in range(2)]
    for task_id in ended:
        assert (await mesh.get(Tasks).outcome(task_id)).success
    waits = await asked(mesh)
    sound = await mesh.get(Maintenance).verify(ADMIN)
    assert (sound.faults, sound.notes, sound.tasks, sound.open_tasks) == ([], [], 3, 1)

    monkeypatch.setattr(operations, "_LOOKS", 1)
    [account] = keys.command("keys", f"state||{NAMESPACE}/actor/budget-account/*").splitlines()
    keys.command("del", account)
    keys.change(f"Orchestrator/{ended[0]}", lambda text: text.replace('"succeeded"', '"failed"', 1))
    keys.command("del", f"state||{NAMESPACE}/actor/Orchestrator/{ended[1]}")
    keys.change(f"clerk/default:{waits}", lambda text: text.replace('"fence":1', '"fence":0'))
    damaged = await mesh.get(Maintenance).verify(ADMIN)
    of = "of tenant default: "
    assert damaged.faults == [
        f"Task {ended[0]} {of}its record says failed in attempt 1, its events succeeded in attempt 1",
        f"Task {ended[1]} {of}it was accepted, and has no record",
        f"Task {waits} {of}it was claimed under fence 1, and its thread clerk/default:{waits} knows 0",
        "Budget all of mesh mesh: its account is not there",
    ]
    keys.change(f"clerk/default:{waits}", lambda text: text.replace(f'"{waits}"', '"other"'))
    keys.change(f"Orchestrator/{ended[0]}", lambda text: text[:-20])
    unreadable, _, lost, _ = (await mesh.get(Maintenance).verify(ADMIN)).faults
    assert "its record cannot be read: " in unreadable
    assert lost.endswith(f"it is open, and its thread clerk/default:{waits} does not have it")

    shared = {"MESH_DATABASE": database["database"]} if database else {}
    done = await run_mesh("verify", "--json", "--data", str(tmp_path), **shared)  # nothing serves it
    found = json.loads(done.out)["store"]
    assert (found["faults"], found["tasks"]) == ([], 0) and "start the mesh, with --hold" in found["notes"][0]


async def test_a_mesh_is_held_backed_up_restored_verified_and_released(
    tmp_path: Path, dapr_bin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_DAPR_BIN", dapr_bin)
    first, second, two = tmp_path / "first", tmp_path / "second", ("--replicas", "2")
    async with stack_up(first, *two, "--hold") as stack, Client(stack.url) as client:
        tasks = [(await client.submit("simple-agent", "Hello")).task_id for _ in range(TASKS)]
        while len(await client.tasks(status="dispatched")) < TASKS:
            await asyncio.sleep(0.05)
        done = await run_mesh("backup", str(tmp_path / "copy"), "--data", str(first))
        said = " ".join(done.err.split())
        assert f"{TASKS} tasks, {TASKS} of them open" in done.out
        assert "are in the state store of Dapr: copy that too while mesh hold lets nothing begin; of" in said
        shutil.copytree(first / "redis" / "appendonlydir", second / "redis" / "appendonlydir")
        assert (await client.release())["state"] == "working"
        assert all([(await client.outcome(task_id)).success for task_id in tasks])
        kill(stack.pids["mesh-0"])
        await stack.errors.until("mesh-0 works again")
        assert (await client.status()).state == "working"  # `--hold` is of the first start
        assert await stack.stop(signal.SIGKILL) == -signal.SIGKILL
        await gone([*stack.pids.values()])
    (second / "redis").rename(tmp_path / "redis")
    done = await run_mesh("restore", str(tmp_path / "copy"), "--data", str(second))
    assert done.status == 0 and "restore the state store of Dapr too" in " ".join(done.err.split())
    (tmp_path / "redis").rename(second / "redis")
    async with stack_up(second, *two) as stack, Client(stack.url) as client:
        assert (await client.status()).state == "held"
        done = await run_mesh("verify", "--data", str(second))
        assert done.status == 0 and f"{TASKS} tasks, {TASKS} of them open" in done.out
        await client.release()
        assert all([(await client.outcome(task_id)).success for task_id in tasks])
        done = await run_mesh("verify", "--data", str(second))
        assert done.status == 0 and f"{TASKS} tasks, 0 of them open" in done.out
