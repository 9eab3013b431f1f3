"""The programs of the stack as the product starts them: each works with the files of `components/`."""

import asyncio
import json
import time
from asyncio.subprocess import PIPE
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from meshwright.parts.stack.services import EdgeRights, mosquitto
from tests.support.running_stack import listening
from tests.support.services import COMPONENTS, Services, Sidecar
from tests.support.settings import Settings


async def call(sidecar: Sidecar, method: str, path: str, **options: Any) -> tuple[int, Any]:
    """Ask the API of a sidecar, as its app would."""
    headers = {"dapr-api-token": sidecar.app.api_token}
    url = f"http://127.0.0.1:{sidecar.app.http_port}/v1.0{path}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, **options) as response,
    ):
        text = await response.text()
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text


@pytest.mark.parametrize("bus", ["mqtt", "redis"])
async def test_a_sidecar_finds_store_and_bus_in_its_environment(services: Services, bus: str) -> None:
    async with services.sidecar(bus=bus) as sidecar:
        key = sidecar.app.namespace
        _, about = await call(sidecar, "GET", "/metadata")
        assert {each["name"] for each in about["components"]} == {"state", "bus", "views", "env"}
        assert (await call(sidecar, "POST", "/state/state", json=[{"key": key, "value": 7}]))[0] == 204
        assert (await call(sidecar, "GET", f"/state/state/{key}"))[1] == "7"
        assert (await call(sidecar, "POST", f"/publish/bus/bus/{key}/x", json={}))[0] == 204


async def test_a_sidecar_answers_only_who_has_its_token(services: Services) -> None:
    async with services.sidecar(actors=False) as sidecar:
        assert (await call(sidecar, "GET", "/metadata"))[0] == 200
        status, _ = await call(sidecar, "GET", "/metadata", headers={"dapr-api-token": "another"})
        assert status == 401


@pytest.mark.parametrize("path", ["/secrets/env/MESH_REDIS_PASSWORD", "/secrets/env/bulk"])
async def test_an_app_cannot_read_the_environment_of_its_sidecar(services: Services, path: str) -> None:
    async with services.sidecar(actors=False) as sidecar:
        status, text = await call(sidecar, "GET", path)
        assert status >= 400 and services.redis_password not in str(text)


async def test_state_outlives_kill_9_of_store_and_sidecar(own_services: Services) -> None:
    async with own_services.sidecar(bus="redis", actors=False) as sidecar:
        assert (await call(sidecar, "POST", "/state/state", json=[{"key": "k", "value": 7}]))[0] == 204
        own_services.kill("redis")
        sidecar.kill()
        own_services.start_again("redis")
        await sidecar.start()
        assert (await call(sidecar, "GET", "/state/state/k"))[1] == "7"


async def test_control_plane_comes_back_where_it_was(own_services: Services) -> None:
    async with own_services.sidecar(bus="redis") as sidecar:
        await until_placed(sidecar)
        for name in ("placement", "scheduler"):
            own_services.kill(name)
        await until_placed(sidecar, False)
        for name in ("placement", "scheduler"):
            own_services.start_again(name)
        await until_placed(sidecar)


async def until_placed(sidecar: Sidecar, placed: bool = True) -> None:
    """Wait until a sidecar says that it is connected to the placement, or that it is not."""
    async with asyncio.timeout(240):
        while True:
            _, about = await call(sidecar, "GET", "/metadata")
            if (about["actorRuntime"]["placement"] == "placement: connected") == placed:
                return
            await asyncio.sleep(0.05)


@pytest.mark.needs("ss")
async def test_a_sidecar_listens_on_loopback_alone(services: Services) -> None:
    async with services.sidecar() as sidecar:
        assert sidecar.app.grpc_port in {int(port) for _, port in listening(sidecar.pid)}
        assert {host for host, _ in listening(sidecar.pid)} == {"127.0.0.1"}


async def client(program: str, url: str, *arguments: str, stdin: str = "") -> str:
    """Run a client that comes with Mosquitto, as the user of the URL, if it names one."""
    where = urlsplit(url)
    login = ["-u", where.username or "", "-P", where.password or ""] if where.username else []
    process = await asyncio.create_subprocess_exec(
        program, "-p", str(where.port), "-q", "1", *login, *arguments, stdin=PIPE, stdout=PIPE
    )
    try:
        out, _ = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
    return out.decode().strip()


@pytest.mark.needs("mosquitto_pub", "mosquitto_sub")
@pytest.mark.parametrize("user", ["", "edge"])
async def test_the_bus_is_closed_to_clients_and_to_the_edge(own_services: Services, user: str) -> None:
    """A subscriber asks for the bus first, and would get it first."""
    ours, port = own_services.broker_url, urlsplit(own_services.broker_url).port
    login = f"{user}:{own_services.edge_password}@" if user else ""
    url = f"mqtt://{login}127.0.0.1:{port}"
    await client("mosquitto_pub", ours, "-r", "-t", "bus/secret", "-m", "ours")
    await client("mosquitto_pub", url, "-r", "-t", "bus/forged", "-m", "theirs")
    await client("mosquitto_pub", url, "-r", "-t", "mesh/default/submit", "-m", "theirs")
    topics = ("-t", "bus/secret", "-t", "mesh/default/submit", "-C", "1", "-v")
    assert await client("mosquitto_sub", url, *topics) == "mesh/default/submit theirs"
    topics = ("-t", "bus/forged", "-t", "mesh/default/submit", "-C", "1", "-v")
    assert await client("mosquitto_sub", ours, *topics) == "mesh/default/submit theirs"


@pytest.mark.needs("mosquitto_pub", "mosquitto_sub")
async def test_clients_without_a_login_forge_nothing_of_the_mesh(own_services: Services) -> None:
    ours, anybody = own_services.broker_url, f"mqtt://127.0.0.1:{urlsplit(own_services.broker_url).port}"
    for topic in ("mesh/default/tasks/t1/outcome", "mesh/default/clients/ada/submit", "replies/anonymous/1"):
        await client("mosquitto_pub", anybody, "-r", "-t", topic, "-m", "forged")
    await client("mosquitto_pub", anybody, "-r", "-t", "mesh/default/submit", "-m", "a task")
    topics = ("-t", "mesh/default/tasks/#", "-t", "mesh/default/clients/#", "-t", "replies/#")
    last = ("-t", "mesh/default/submit", "-C", "1", "-v")
    assert await client("mosquitto_sub", ours, *topics, *last) == "mesh/default/submit a task"


@pytest.mark.needs("mosquitto_pub", "mosquitto_sub")
async def test_a_broker_that_is_killed_has_what_it_got_a_second_ago(own_services: Services) -> None:
    url, session = own_services.broker_url, ("-i", "worker", "-c", "-t", "bus/all")
    assert await client("mosquitto_sub", url, *session, "-E") == ""  # there, subscribed, and away again
    sent = [f"message {number}" for number in range(200)]
    await client("mosquitto_pub", url, "-t", "bus/all", "-l", stdin="\n".join(sent))
    one_second_later = time.time_ns() + 1_000_000_000
    kept = own_services.folder / "mosquitto" / "mosquitto.db"
    while not kept.exists() or kept.stat().st_mtime_ns < one_second_later:
        await asyncio.sleep(0.05)
    own_services.kill("mosquitto")
    own_services.start_again("mosquitto")
    assert (await client("mosquitto_sub", url, *session, "-C", "200")).splitlines() == sent


@pytest.mark.needs("mosquitto_pub", "mosquitto_sub")
async def test_clients_of_the_settings_log_in_and_reach_their_own_alone(services: Services) -> None:
    clients = [{"user": "ada", "tenant": "acme", "password": "hers"}, {"user": "bob"}]
    edge = EdgeRights("edge's", Settings(mqtt={"clients": clients}))
    folder = services.folder / "with-clients"
    service = mosquitto(services.program("mosquitto"), services.ports, COMPONENTS, folder, "bus's", edge)
    services.run(service)
    ours, port = service.address, urlsplit(service.address).port
    for user in ("ada:hers@", "bob:guessed@", ""):
        url = f"mqtt://{user}127.0.0.1:{port}"
        for topic in ("bus/default/task-results", "mesh/default/submit", "mesh/acme/clients/bob/submit"):
            await client("mosquitto_pub", url, "-r", "-t", topic, "-m", "forged")
        await client("mosquitto_pub", url, "-r", "-t", "mesh/acme/clients/ada/submit", "-m", f"of {user[:3]}")
    closed = ("-t", "bus/#", "-t", "mesh/default/#", "-t", "mesh/acme/clients/bob/#")
    topics = (*closed, "-t", "mesh/acme/clients/ada/#", "-C", "1", "-v")
    assert await client("mosquitto_sub", ours, *topics) == "mesh/acme/clients/ada/submit of ada"
