"""Client certificates: the broker knows the mesh and its clients by them, and they are replaced in use."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshwright.core.errors import ConfigError
from meshwright.core.settings import Settings, load_settings
from meshwright.mesh.identity.broker_rights import broker_acl
from tests.support.http_mesh import http_mesh
from tests.support.mqtt_broker import HELLO, Mosquitto, ask, mosquitto, payloads_of, publish

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_pub", "mosquitto_rr")
CLIENTS = [{"user": "ada", "tenant": "acme"}, {"user": "bob", "tenant": "other"}]
ADA = "mesh/acme/clients/ada/submit"


class Authority:
    """Signs certificates, and writes them and their keys into a folder as NAME.pem and NAME.key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        ca = self._signed(name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        (folder / f"{name}.pem").write_bytes(ca)

    def issue(self, user: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        (self._folder / f"{user}.pem").write_bytes(self._signed(user, key, here))
        (self._folder / f"{user}.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        )

    def _signed(self, user: str, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path)
    for user in ("broker", "mesh", "ada", "bob"):
        authority.issue(user)
    return authority


@pytest.fixture
async def broker(tmp_path: Path, authority: Authority) -> AsyncIterator[Mosquitto]:
    """A broker that knows its users by their certificates alone."""
    acl = tmp_path / "acl"
    acl.write_text("\n".join(broker_acl(Settings.model_validate({"mqtt": {"clients": CLIENTS}}), "mesh")))
    acl.chmod(0o600)
    lines = (
        f"cafile {tmp_path}/ca.pem",
        f"certfile {tmp_path}/broker.pem",
        f"keyfile {tmp_path}/broker.key",
        "require_certificate true",
        "use_identity_as_username true",
        f"acl_file {acl}",
    )
    async with mosquitto(tmp_path / "broker", *lines) as broker:
        broker.url = broker.url.replace("mqtt:", "mqtts:")
        broker.login = login(tmp_path, "ada")
        yield broker


def login(folder: Path, user: str) -> tuple[str, ...]:
    return ("--cafile", f"{folder}/ca.pem", "--cert", f"{folder}/{user}.pem", "--key", f"{folder}/{user}.key")


def settings(broker: Mosquitto, folder: Path) -> dict[str, Any]:
    files = {name: folder / file for name, file in (("ca_file", "ca.pem"), ("cert_file", "mesh.pem"))}
    return {"mqtt": {"url": broker.url, "clients": CLIENTS, "key_file": folder / "mesh.key", **files}}


async def test_a_certificate_says_who_a_client_is(tmp_path: Path, broker: Mosquitto) -> None:
    async with http_mesh(tmp_path, **settings(broker, tmp_path)) as api:
        broker.login = login(tmp_path, "bob")
        await publish(broker, ADA, {**HELLO, "task_id": "forged"})  # the broker drops it
        broker.login = login(tmp_path, "ada")
        outcome = await ask(broker, ADA, HELLO, reply="outcome")
        page = await api.mesh.log.tasks(tenant_id="acme")
        assert [(task.task_id, task.requested_by) for task in page.items] == [(outcome["task_id"], "ada")]


async def test_replaced_certificates_are_used_and_no_message_is_lost(
    tmp_path: Path, broker: Mosquitto, authority: Authority
) -> None:
    async with http_mesh(tmp_path, **settings(broker, tmp_path)) as api:
        await payloads_of(api.mesh, "edge.connected")
        (tmp_path / "mesh.pem").write_text("half of a certificate")
        [rejected] = await payloads_of(api.mesh, "certificate.rejected")
        assert "mqtt.cert_file cannot be used" in rejected["error"]
        answered, is_over = [], asyncio.Event()

        async def keep_asking() -> None:
            while not is_over.is_set():
                answered.append((await ask(broker, ADA, HELLO, reply="outcome"))["success"])

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(keep_asking())
            authority.issue("mesh")
            _, again = await payloads_of(api.mesh, "edge.connected", 2)
            is_over.set()
        assert again["session_present"] and len(answered) > 3 and all(answered)
        assert len(await payloads_of(api.mesh, "certificate.reloaded")) == 1
        assert (await api.get("/events", event_type="edge.disconnected"))["items"] == []


async def test_a_mesh_that_the_broker_does_not_know_joins_when_its_certificate_is_right(
    tmp_path: Path, broker: Mosquitto, authority: Authority
) -> None:
    Authority(tmp_path, "stranger").issue("mesh")
    async with http_mesh(tmp_path, **settings(broker, tmp_path)) as api:
        await payloads_of(api.mesh, "edge.disconnected")
        authority.issue("mesh")
        await payloads_of(api.mesh, "edge.connected")
        assert (await ask(broker, ADA, HELLO, reply="outcome"))["success"]


async def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, authority: Authority
) -> None:
    wrong = {"url": "mqtts://localhost", "cert_file": tmp_path / "mesh.pem", "key_file": tmp_path / "ada.key"}
    with pytest.raises(ConfigError, match=r"mqtt\.cert_file cannot be used"):
        async with http_mesh(tmp_path, mqtt=wrong):
            pass
    for known, said in (
        ({"cert_file": "mesh.pem"}, "cert_file and key_file go together"),
        ({"url": "mqtt://localhost", "cert_file": "a", "key_file": "b"}, "cert_file is for TLS"),
        ({"clients": [{"user": "mesh"}]}, "mesh is no client's name"),
        ({"clients": [{"user": "ada", "password": "hunter2"}, {"user": "ada"}]}, "ada is there twice"),
        ({"clients": [{"user": "ada", "password": 7890}]}, r"clients\[0\]\.password"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            load_settings(tmp_path, mqtt=known)
        assert "hunter2" not in str(caught.value) and "7890" not in str(caught.value)
