"""Every edge asks one authenticator who its caller is; nothing in a request's body says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from meshwright import Client
from meshwright.component import Component, Part
from meshwright.core.access import KEY_ROLES, Role
from meshwright.core.errors import Unauthenticated
from meshwright.core.messages import Caller
from meshwright.edges.http.server import serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.identity.auth import Credentials
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.http_mesh import Api, Echo
from tests.support.mqtt_broker import Mosquitto, ask, mosquitto
from tests.support.settings import load_settings


class Badges:
    """Lets in whoever shows a badge: `TENANT/NAME`, over HTTP as the token, over MQTT as the client."""

    headers = ()

    async def authenticate(self, credentials: Credentials) -> Caller:
        if credentials.client is not None:
            name = f"device {credentials.client}"
            return Caller(tenant_id="factory", requested_by=name, roles=frozenset(KEY_ROLES))
        tenant_id, slash, name = credentials.token.partition("/")
        if not slash:
            raise Unauthenticated("Show your badge")
        if tenant_id == "torn":
            raise KeyError(name)
        roles = frozenset({Role.ADMIN} if name == "boss" else KEY_ROLES)
        return Caller(tenant_id=tenant_id, requested_by=name, roles=roles)


class BadgesComponent(Component):
    name = "badges"

    def authenticator(self) -> Badges:
        return Badges()


BADGES = Part(__name__, "badges", component=BadgesComponent)


@asynccontextmanager
async def badge_mesh(folder: Path) -> AsyncIterator[Api]:
    settings = load_settings(folder, model="offline", durability="normal")
    mesh = build_mesh(settings, project=folder, agents=[Echo], parts=[BADGES])
    async with (
        mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=20)) as session,
        Client(server.url) as client,
    ):
        yield Api(mesh, session, client, asyncio.Event(), server.url)


def shows(badge: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {badge}"}


async def test_http_takes_tenant_and_requester_from_the_authenticator(tmp_path: Path) -> None:
    async with badge_mesh(tmp_path) as api:
        assert (await api.call("GET", "/tasks"))[0] == 401
        task = {"agent_id": "echo", "task_id": "t1"}
        assert (await api.call("POST", "/tasks", json=task, headers=shows("acme/ada")))[0] == 202
        _, view = await api.call("GET", "/tasks/t1", headers=shows("acme/bob"))
        assert (view["tenant_id"], view["requested_by"]) == ("acme", "ada")
        assert (await api.call("GET", "/tasks/t1", headers=shows("other/ada")))[0] == 404
        for name in ("tenant_id", "requested_by"):
            body = {"agent_id": "echo", name: "other"}
            status, problem = await api.call("POST", "/tasks", json=body, headers=shows("acme/ada"))
            assert (status, problem["field"]) == (422, name)


@pytest.mark.needs("mosquitto", "mosquitto_rr")
async def test_mqtt_takes_tenant_and_requester_from_the_authenticator(tmp_path: Path) -> None:
    hello = {"agent_id": "echo", "task_id": "t1"}
    async with mosquitto(tmp_path / "broker") as broker, badge_edge(tmp_path, broker) as mesh:
        refused = await ask(broker, "mesh/default/clients/ada/submit", hello)
        assert refused["code"] == "ForeignTenant"
        outcome = await ask(broker, "mesh/factory/clients/ada/submit", hello, reply="outcome")
        assert outcome["success"]
        assert (await mesh.get(Tasks).task("t1", "factory")).requested_by == "device ada"


async def test_an_authenticator_that_breaks_lets_nobody_in(tmp_path: Path) -> None:
    async with badge_mesh(tmp_path) as api:
        status, problem = await api.call("GET", "/tasks", headers=shows("torn/ada"))
        assert (status, problem["detail"]) == (503, "Badges cannot say who the caller is: KeyError")


@asynccontextmanager
async def badge_edge(folder: Path, broker: Mosquitto) -> AsyncIterator[Mesh]:
    """A mesh on MQTT with an authenticator of its own."""
    settings = load_settings(folder, model="offline", durability="normal", mqtt_url=broker.url)
    async with build_mesh(settings, project=folder, agents=[Echo], parts=[BADGES]) as mesh:
        yield mesh
