"""A mesh on Dapr whose workers share a PostgreSQL database: each may be a front."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from meshwright import Client
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Backends, worker
from tests.support.postgres import Address
from tests.support.services import Process, Services, Sidecar

pytestmark = pytest.mark.needs("mosquitto", "redis-server")
NAMESPACE = "shared"
ADMIN = "an-admin-token-for-the-two-fronts"


class Front:
    """A worker with the HTTP API, its sidecar, and a client of it."""

    def __init__(self, process: Process, sidecar: Sidecar) -> None:
        self.process = process
        self.sidecar = sidecar
        self.client = Client(process.service.address, ADMIN)

    def kill(self) -> None:
        self.process.kill()
        self.sidecar.kill()


@pytest.fixture
async def fronts(
    own_services: Services, postgres_url: Address, ports: Ports, tmp_path: Path
) -> AsyncIterator[list[Front]]:
    """Two workers of one app, both of them fronts."""
    started = [front(own_services, postgres_url, ports, tmp_path, number) for number in range(2)]
    async with AsyncExitStack() as stack:
        for one in started:
            stack.callback(one.sidecar.end)
            stack.callback(one.process.kill)
            one.sidecar.launch()
            one.process.launch()
            await stack.enter_async_context(one.client)
        await asyncio.gather(*(one.process.ready() for one in started))
        yield started


def front(services: Services, database: Address, ports: Ports, folder: Path, number: int) -> Front:
    app_port, http_port = ports.take(2)
    sidecar = services.daprd("mesh", port=app_port, namespace=NAMESPACE, pod=f"mesh-{number}_{NAMESPACE}")
    options = {
        "MESH_STORE": "dapr",
        "MESH_DATABASE": database,
        "MESH_DATA_DIR": str(folder / f"mesh-{number}"),
        "MESH_DAPR__NAMESPACE": NAMESPACE,
        "MESH_ADMIN_TOKEN": ADMIN,
        "MODEL_NAME": "offline",
    }
    service = worker(
        f"mesh-{number}",
        sidecar.app,
        Backends(broker_url=services.broker_url),
        options,
        ("127.0.0.1", http_port),
        replica=False,
    )
    process = Process(service, folder / f"mesh-{number}.log")
    return Front(process, sidecar)


async def test_a_task_given_at_one_front_is_followed_at_the_other(fronts: list[Front]) -> None:
    one, other = fronts
    receipts = [await one.client.submit("simple-agent", f"What is {n} + 1?") for n in range(8)]
    for receipt in receipts:
        followed = [event async for event in other.client.follow(receipt.task_id)]
        types = [event.event_type for event in followed]
        assert "task.started" in types and types[-1] == "task.succeeded"
        assert [event.seq for event in followed] == sorted({event.seq or 0 for event in followed})
        assert (await other.client.outcome(receipt.task_id)).status == "succeeded"
        assert (await other.client.task(receipt.task_id)).outcome == await one.client.outcome(receipt.task_id)
    wanted = {receipt.task_id for receipt in receipts}
    for each in fronts:
        assert {task.task_id for task in await each.client.tasks()} == wanted
    async with asyncio.timeout(240):  # each learns of what the other wrote a moment later
        while await one.client.last_seq() != await other.client.last_seq():
            await asyncio.sleep(0.1)
        for receipt in receipts:  # events of an actor that two workers had may arrive out of order
            while not await other.client.events(task_id=receipt.task_id, event_type="task.accepted"):
                await asyncio.sleep(0.1)


async def test_the_other_front_goes_on_where_one_is_gone(fronts: list[Front]) -> None:
    one, other = fronts
    told = await one.client.ask("researcher-agent", "Remember that the gate is blue.")
    assert told.status == "succeeded"
    key = await one.client.create_key("simple-agent")
    stored = await one.client.events(event_type="memory.stored")
    one.kill()
    assert stored and await other.client.events(event_type="memory.stored") == stored
    assert [known.key_id for known in await other.client.keys()] == [key.key_id]
    asked = await other.client.ask("researcher-agent", "What colour is the gate?")
    assert asked.status == "succeeded"
    [recalled] = await other.client.events(event_type="memory.recalled", task_id=asked.task_id)
    assert recalled.payload["count"] >= 1
