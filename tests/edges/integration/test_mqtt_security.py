"""TLS, passwords and rights: the mesh at a broker set up as the examples in components/mosquitto have it."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.mesh.identity.broker_rights import broker_acl
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import ROOT, Mosquitto, ask, client, mosquitto, network, payloads_of
from tests.support.settings import Settings

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr", "mosquitto_passwd", "openssl")
SUBMIT = "mesh/default/clients/caller/submit"
CLIENTS = {"clients": [{"user": "caller"}, {"user": "caller2"}, {"user": "viewer", "roles": ["viewer"]}]}
EXAMPLES = ROOT / "components" / "mosquitto"


def openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of its own, and the certificate of 127.0.0.1 that it signed."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        folder, "req -x509 -newkey rsa:2048 -nodes -days 1 -keyout ca.key -out ca.pem -subj /CN=authority"
    )
    openssl(folder, "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=broker")
    openssl(
        folder,
        "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -in server.csr -out server.pem",
    )
    return folder


@pytest.fixture
async def broker(tmp_path: Path, certificates: Path) -> AsyncIterator[Mosquitto]:
    """A broker by the examples: only their paths and the port are others."""
    users = tmp_path / "passwords"
    users.touch(mode=0o600)
    for user in ("mesh", "caller", "caller2", "viewer"):
        subprocess.run(["mosquitto_passwd", "-b", str(users), user, f"{user}'s"], check=True)
    acl = tmp_path / "acl"
    acl.write_text("\n".join(broker_acl(Settings(mqtt=CLIENTS), "mesh")) + "\n")
    example = (EXAMPLES / "tls.conf.example").read_text()
    lines = [
        line.replace("/etc/mosquitto/certs", str(certificates))
        .replace("/etc/mosquitto/passwords", str(users))
        .replace("/etc/mosquitto/acl", str(acl))
        for line in example.splitlines()
        if line and not line.startswith(("#", "listener"))
    ]
    async with mosquitto(tmp_path / "broker", *lines) as broker:
        broker.url = broker.url.replace("mqtt:", "mqtts:")
        broker.login = ("--cafile", str(certificates / "ca.pem"), "-u", "caller", "-P", "caller's")
        yield broker


def settings(broker: Mosquitto, certificates: Path) -> dict[str, object]:
    return {
        "mqtt_url": broker.url,
        "mqtt_username": "mesh",
        "mqtt_password": "mesh's",
        "mqtt_ca_file": certificates / "ca.pem",
        "mqtt": CLIENTS,
    }


async def test_a_large_task_comes_whole_over_tls(
    tmp_path: Path, broker: Mosquitto, certificates: Path
) -> None:
    async with http_mesh(tmp_path, **settings(broker, certificates)):
        for size in (16_000, 16_384, 100_000):
            task = {"agent_id": "echo", "payload": {"text": "x" * size}}
            outcome = await ask(broker, SUBMIT, task, reply="outcome")
            assert len(outcome["result"]["text"]) == size + len("you said: ")


async def test_messages_that_came_in_one_piece_are_all_read(tmp_path: Path, certificates: Path) -> None:
    """TLS has the second of them in memory when the first is read: the socket tells of it no more."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    known = {"mqtt_ca_file": certificates / "ca.pem"}
    async with (
        mosquitto(tmp_path / "broker") as broker,
        network(broker, tls) as link,
        client(broker, "mesh/default/errors") as caller,
        http_mesh(tmp_path, mqtt_url=link.url, **known),
    ):
        link.holds_what_comes_back = True
        for _ in range(5):
            caller.publish("mesh/acme/submit", "", qos=0)
        await caller.silence(0.3)
        link.holds_what_comes_back = False
        caller.publish("mesh/acme/submit", "", qos=0)
        await caller.documents("#", lambda found: sum(error["count"] for error in found) == 6)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, broker: Mosquitto, certificates: Path
) -> None:
    async with http_mesh(tmp_path, **settings(broker, certificates) | {"mqtt_ca_file": None}) as api:
        [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert away["reason"].startswith("its certificate is not trusted: ")
        assert "Set mqtt.ca_file" in away["reason"]


async def test_a_wrong_password_is_not_repeated(
    tmp_path: Path, broker: Mosquitto, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with http_mesh(tmp_path, **settings(broker, certificates) | {"mqtt_password": "hers"}) as api:
        [away] = await payloads_of(api.mesh, "edge.disconnected")
        assert "Check username and password of [mqtt]" in away["reason"]
        assert "hers" not in caplog.text + away["reason"]


async def test_an_authority_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name, reason in (("ca.pem", "mqtt.ca_file cannot be used"), ("none.pem", "No such file")):
        with pytest.raises(ConfigError, match=reason) as caught:
            async with http_mesh(tmp_path, mqtt_url="mqtts://localhost", mqtt_ca_file=name):
                pass
        assert str(tmp_path / name) in str(caught.value)
