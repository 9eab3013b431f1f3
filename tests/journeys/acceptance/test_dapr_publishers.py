"""A program that is no part of the mesh publishes tasks by Dapr, and gets receipts and outcomes by Dapr."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from meshwright.parts.stack.machine import Ports, find_program
from tests.run import DAPR
from tests.support.mqtt_broker import Client, Mosquitto
from tests.support.running_mesh import MESH, RunningMesh, mesh_up, start
from tests.support.running_stack import RunningStack, kill
from tests.support.services import DAPR_BIN

SIDECAR = pytest.mark.soak("test_dapr_faults.py kills a worker with its sidecar")
pytestmark = pytest.mark.needs(*DAPR)
UP = [*MESH, "up", "--host", "dapr"]
EXAMPLE = Path(__file__).parents[3] / "examples" / "orders"
PASSWORD = "of-orders"
SECONDS = 90
ACCEPTED, REFUSED, ENDED = (f"meshwright.task.{what}" for what in ("accepted", "refused", "ended"))


@asynccontextmanager
async def mesh_with_publishers(folder: Path) -> AsyncIterator[RunningMesh]:
    async with mesh_up(folder / "data", up=UP, cwd=EXAMPLE, ORDERS_PASSWORD=PASSWORD) as running:
        await running.errors.until("logs: ")
        yield running


def broker_of(running: RunningMesh) -> int:
    found = re.search(r"mosquitto\s+mqtt://\S+:(\d+)", running.errors.text)
    assert found is not None
    return int(found[1])


@asynccontextmanager
async def shop(broker_port: int, held: Ports) -> AsyncIterator[str]:
    """The example with its sidecar."""
    app, http, grpc, internal, metrics = held.take(5)
    environment = {
        "ORDERS_BROKER_URL": f"mqtt://orders:{PASSWORD}@127.0.0.1:{broker_port}",
        "DAPR_HOST_IP": "127.0.0.1",
        "DAPR_HTTP_PORT": str(http),
        "DAPR_GRPC_PORT": str(grpc),
        "APP_PORT": str(app),
    }
    local = [
        f"--{name}=127.0.0.1"
        for name in ("dapr-listen-addresses", "dapr-internal-grpc-listen-address", "metrics-listen-address")
    ]
    ports = [
        *(f"--app-port={app}", f"--dapr-http-port={http}", f"--dapr-grpc-port={grpc}"),
        *(f"--dapr-internal-grpc-port={internal}", f"--metrics-port={metrics}"),
    ]
    program = find_program("daprd", Path(DAPR_BIN) if DAPR_BIN else None)
    sidecar = [str(program), "--app-id=orders", f"--resources-path={EXAMPLE / 'components'}", *ports, *local]
    processes: list[Process] = []
    try:
        processes.append(await start([sys.executable, str(EXAMPLE / "app.py")], environment, stderr=PIPE))
        daprd = await start(sidecar, environment, stdout=PIPE)
        processes.append(daprd)
        assert daprd.stdout is not None
        async with asyncio.timeout(SECONDS):
            async for line in daprd.stdout:
                if b"dapr initialized" in line:
                    break
        yield f"http://127.0.0.1:{app}"
    finally:
        for process in processes:
            process.terminate()
            await process.communicate()


async def answered(session: aiohttp.ClientSession, url: str, *kinds: str) -> dict[str, Any]:
    """Wait until an order has answers of these kinds."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with session.get(url) as response:
                order = await response.json()
            if set(kinds) <= order.keys():
                return order
            await asyncio.sleep(0.05)


async def test_the_example_gives_tasks_and_gets_their_outcomes(tmp_path: Path, ports: Ports) -> None:
    async with (
        mesh_with_publishers(tmp_path) as running,
        shop(broker_of(running), ports) as url,
        aiohttp.ClientSession(raise_for_status=True) as session,
    ):
        for _ in range(2):
            await session.post(f"{url}/orders/7", json={"text": "What is a turn?"})
            order = await answered(session, f"{url}/orders/7", ACCEPTED, ENDED)
        assert order[ENDED]["success"] and order[ENDED]["task_id"] == order[ACCEPTED]["task_id"]
        [task] = (await running.get("/tasks")).body["items"]
        view = (await running.get(f"/tasks/{task['task_id']}")).body
        assert view["requested_by"] == "bus:orders"
        await session.post(f"{url}/orders/7", json={"text": "Something else"})
        order = await answered(session, f"{url}/orders/7", REFUSED)
        assert order[REFUSED]["code"] == "IdempotencyConflict"
        environment = {"ORDERS_PASSWORD": PASSWORD, "MESH_TRUST": "1"}
        check = await start(
            [*MESH, "check", "--data", str(tmp_path / "data")],
            environment,
            cwd=EXAMPLE,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, _ = await check.communicate()
        assert b"ok    running" in out and b"has no effect" not in out, out


@pytest.mark.parametrize("killed", ["mesh-0", pytest.param("daprd-mesh-0", marks=SIDECAR)])
async def test_events_get_one_outcome_each_while_a_process_is_killed(tmp_path: Path, killed: str) -> None:
    async with mesh_with_publishers(tmp_path) as running:
        broker = cast(Mosquitto, SimpleNamespace(port=broker_of(running)))
        pid = RunningStack(running.url, running.process, running.errors).pids[killed]
        caller = Client(broker, username="orders", password=PASSWORD)
        await caller.connect()
        for topic in ("task-receipts", "task-results"):
            await caller.subscribe(topic)
        task = {"capability": "general-query", "payload": {"text": "What is a turn?"}}
        known = {"specversion": "1.0", "source": "/orders", "type": "shop.order"}
        for number in range(30):
            caller.publish("tasks", {**known, "id": str(number), "data": task})
        await caller.document("task-receipts")
        kill(pid)
        ended: dict[str, set[str]] = {}
        while len(ended) < 30:
            message = await caller.message()
            event = json.loads(message.payload)
            if event["type"] == ENDED:
                assert event["data"]["success"], event
                ended.setdefault(event["requestid"], set()).add(event["id"])
        assert all(len(ids) == 1 for ids in ended.values())
        caller.publish("tasks", "no event")
        refused = await caller.documents("task-receipts", lambda found: bool(found) and REFUSED in str(found))
        assert refused[-1]["data"]["field"] == "body"
        await caller.close()
        assert len((await running.get("/tasks", limit="100")).body["items"]) == 30
