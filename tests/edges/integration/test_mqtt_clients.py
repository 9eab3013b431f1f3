"""Clients of several tenants at one broker: what the broker closes, and what the mesh refuses itself."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshwright.cli.app import mesh as cli
from meshwright.money.keys import Keys
from tests.support.fake_issuer import AUDIENCE, fake_issuer
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import HELLO, Client, Mosquitto, ask, client, mosquitto, payloads_of

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_rr", "mosquitto_passwd")
CLIENTS: list[dict[str, Any]] = [
    {"user": "ada", "tenant": "acme"},
    {"user": "bob", "tenant": "other", "roles": ["submitter", "contents"]},
    {"user": "vera", "tenant": "other", "roles": ["viewer"]},
    {"user": "olga", "tenant": "other", "roles": ["operator"]},
    {"user": "gateway", "tenant": "acme", "roles": [], "tokens": True},
]
FORGED = {"agent_id": "echo", "payload": {"text": "forged"}}
TO_BOB = "mesh/other/clients/bob/replies/1"
CLOSED_TO_ADA = (
    "mesh/acme/submit",
    "mesh/other/submit",
    "mesh/other/clients/ada/submit",
    "mesh/other/clients/bob/submit",
    "mesh/acme/clients/bob/submit",
    "mesh/acme/clients/ada/replies/1",
    "mesh/acme/tasks/t1/outcome",
    "mesh/acme/facts/task-progress/task.succeeded",
    "mesh/other/clients/bob/tasks/of-bob/cancel",
    TO_BOB,
    "replies/anonymous/1",
    "bus/default/task-results",
    "mesh/default/agents/echo",
    "mesh/default/status",
)


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mosquitto]:
    """A broker with the rights that `mesh mqtt acl` prints, and a user `bus` to whom all is open."""
    users, acl = tmp_path / "passwords", tmp_path / "acl"
    tables = [f"[[mqtt.clients]]\n{_toml(each)}" for each in CLIENTS]
    (tmp_path / "mesh.toml").write_text("\n".join(tables))
    monkeypatch.chdir(tmp_path)
    acl.write_text(CliRunner().invoke(cli, ["mqtt", "acl"], catch_exceptions=False).stdout)
    with acl.open("a") as lines:
        lines.write("user bus\ntopic readwrite #\n")
    for path in (users, acl):
        path.touch()
        path.chmod(0o600)
    for user in ("mesh", "bus", *(str(each["user"]) for each in CLIENTS)):
        subprocess.run(["mosquitto_passwd", "-b", str(users), user, f"{user}'s"], check=True)
    rights = (f"password_file {users}", f"acl_file {acl}", "allow_anonymous false")
    async with mosquitto(tmp_path / "broker", *rights) as broker:
        yield broker


def _toml(table: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items())


def login(user: str) -> dict[str, str]:
    return {"username": user, "password": f"{user}'s"}


def settings(broker: Mosquitto) -> dict[str, Any]:
    own = {"url": broker.url, "username": "mesh", "password": "mesh's", "clients": CLIENTS}
    return {"mqtt": own}


async def submit(one: Client, topic: str, text: str, task_id: str) -> None:
    task = {"agent_id": "echo", "task_id": task_id, "payload": {"text": text}}
    one.publish(f"{topic}/submit", task, reply_to=f"{topic}/replies/1", reply="outcome")


async def until(one: Client, topic: str) -> list[str]:
    """All that has come, as text, until a message at a topic has."""
    seen = []
    while True:
        message = await one.message()
        seen.append(f"{message.topic} {message.payload.decode()}")
        if message.topic == topic:
            return seen


async def test_a_client_reaches_nothing_of_another_tenant_nor_the_bus(
    tmp_path: Path, broker: Mosquitto
) -> None:
    to_ada, to_bob = "mesh/acme/clients/ada", "mesh/other/clients/bob"
    async with (
        client(broker, "#", **login("bus")) as bus,
        client(broker, "#", **login("ada")) as ada,
        client(broker, "#", **login("bob")) as bob,
        client(broker, "#", **login("vera")) as vera,
        http_mesh(tmp_path, **settings(broker)) as api,
    ):
        bus.publish("bus/default/task-results", "secret of the bus")
        for topic in CLOSED_TO_ADA:
            ada.publish(topic, FORGED, reply_to=TO_BOB)
        await submit(bob, to_bob, "a word of bob's", "of-bob")
        theirs = await until(bob, "mesh/other/tasks/of-bob/outcome")
        await submit(ada, to_ada, "a word of ada's", "of-ada")
        hers = await until(ada, f"{to_ada}/replies/1")
        while "mesh/other/facts/task-progress/task.succeeded " not in (
            facts := "\n".join(await until(vera, "mesh/other/facts/task-progress/task.succeeded"))
        ):
            pass
        everything = "\n".join(await until(bus, f"{to_ada}/replies/1"))
        for tenant, task_id in (("acme", "of-ada"), ("other", "of-bob")):
            page = await api.mesh.log.tasks(tenant_id=tenant)
            assert [task.task_id for task in page.items] == [task_id]
    presence = ("mesh/default/agents/", "mesh/default/status ")
    assert all(line.startswith((f"{to_ada}/replies/", "mesh/acme/facts/", *presence)) for line in hers)
    assert "you said: a word of ada's" in hers[-1]
    assert any("you said: a word of bob's" in line for line in theirs)
    own = (f"{to_bob}/replies/", "mesh/other/", *presence)
    assert all(line.startswith(own) for line in theirs)
    assert '"task_id":"of-bob"' in facts and "a word of" not in facts
    assert "secret of the bus" in everything and "forged" not in everything


@pytest.fixture
async def open_broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker without rights: the mesh is alone with what it knows of its clients."""
    async with mosquitto(tmp_path / "broker") as broker:
        yield broker


async def test_the_mesh_lets_each_client_do_what_its_roles_allow(
    tmp_path: Path, open_broker: Mosquitto
) -> None:
    async with http_mesh(tmp_path, **settings(open_broker)) as api:

        async def asked(topic: str, body: Any = HELLO) -> Any:
            return await ask(open_broker, f"mesh/{topic}", body)

        for topic, code in (
            ("other/clients/vera/submit", "Forbidden"),
            ("other/clients/olga/submit", "Forbidden"),
            ("other/clients/eve/submit", "Unauthenticated"),
            ("other/submit", "Unauthenticated"),
            ("default/submit", "Unauthenticated"),
            ("other/clients/ada/submit", "ForeignTenant"),
        ):
            assert (await asked(topic))["code"] == code
        gate = {"agent_id": "gate", "task_id": "of-bob", "payload": {"text": "a word of bob's"}}
        assert (await asked("other/clients/bob/submit", gate))["task_id"] == "of-bob"
        for topic in ("other/clients/vera", "acme/clients/ada"):
            problem = await asked(f"{topic}/tasks/of-bob/cancel")
            assert problem["code"] == ("Forbidden" if "vera" in topic else "NotFound")
            problem = await asked(f"{topic}/tasks/of-bob/answer", {"key": "k", "value": "yes"})
            assert problem["code"] == ("Forbidden" if "vera" in topic else "NotFound")
        ended = await asked("other/clients/olga/tasks/of-bob/cancel")
        assert (ended["task_id"], ended["payload"]) == ("of-bob", {})
        page = await api.mesh.log.tasks(tenant_id="other")
        assert [task.task_id for task in page.items] == ["of-bob"]


@pytest.mark.parametrize("topic", ["bus/default/task-results", TO_BOB, "replies/anonymous/1"])
async def test_a_client_is_answered_nowhere_else(tmp_path: Path, open_broker: Mosquitto, topic: str) -> None:
    async with client(open_broker, "#") as everybody, http_mesh(tmp_path, **settings(open_broker)) as api:
        everybody.publish("mesh/acme/clients/ada/submit", HELLO, reply_to=topic, reply="outcome")
        [refused] = await payloads_of(api.mesh, "edge.refused")
        assert (refused["problem"]["field"], refused["answered"]) == ("response-topic", False)
        seen = await until(everybody, "mesh/default/events/mesh-events/edge.refused")
        assert not any(line.startswith(topic) for line in seen)


async def test_a_shared_user_of_the_broker_is_whose_key_or_token_its_messages_show(
    tmp_path: Path, broker: Mosquitto
) -> None:
    broker.login = ("-u", "gateway", "-P", "gateway's")
    below = "mesh/acme/clients/gateway"
    async with fake_issuer() as issuer:
        claims = {"tenant_claim": "org", "default_roles": ["submitter"]}
        oidc = {"issuer": issuer.url, "audience": AUDIENCE, **claims}
        async with http_mesh(tmp_path, oidc=oidc, **settings(broker)) as api:
            keys = api.mesh.get(Keys)
            ada = await keys.create("ada", tenant_id="acme", roles=["submitter"])
            vera = await keys.create("vera", tenant_id="acme", roles=["viewer"])
            bob = await keys.create("bob", tenant_id="other", roles=["admin"])
            every = await keys.create("ops", tenant_id="*", roles=["operator"])

            async def asked(topic: str, shown: str, body: Any = HELLO) -> Any:
                more = {"authorization": shown} if shown else {}
                return await ask(broker, f"{below}/{topic}", body, **more)

            gate = {"agent_id": "gate", "task_id": "of-ada"}
            assert (await asked("submit", f"Bearer {ada.key}", gate))["task_id"] == "of-ada"
            of_issuer = {"agent_id": "gate", "task_id": "of-issuer"}
            assert (await asked("submit", f"Bearer {issuer.token(org='acme')}", of_issuer))["task_id"]
            listed = await api.mesh.log.tasks(tenant_id="acme")
            assert {task.requested_by for task in listed.items} == {"ada", "oidc:ada"}
            for shown, code in (
                ("", "Unauthenticated"),
                ("Bearer none", "Unauthenticated"),
                ("Basic YTpi", "InvalidInput"),
                (f"Bearer {vera.key}", "Forbidden"),
                (f"Bearer {bob.key}", "ForeignTenant"),
                (f"Bearer {issuer.token(org='other')}", "ForeignTenant"),
            ):
                problem = await asked("submit", shown)
                assert problem["code"] == code and problem["remedy"], problem
            await keys.revoke(ada.key_id)
            assert "was revoked" in (await asked("submit", f"Bearer {ada.key}"))["detail"]
            assert (await asked("tasks/of-ada/cancel", f"Bearer {every.key}", ""))["task_id"] == "of-ada"
            [_, *refused] = await payloads_of(api.mesh, "audit.recorded", 3)  # the first: of the settings
            assert {each["action"] for each in refused} == {"credentials.refused"}
            assert ada.key not in json.dumps(refused)
            assert not (await api.mesh.log.tasks(tenant_id="other")).items
