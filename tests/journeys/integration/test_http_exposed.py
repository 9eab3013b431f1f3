"""The conditions for a mesh that other machines use; TLS; and its Unix socket for its own user."""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshwright import Client
from meshwright.core.errors import ConfigError
from meshwright.edges.client.transports import MeshUnreachable
from meshwright.edges.http.server import listen, local_socket, serve
from meshwright.edges.tls import Certificate
from meshwright.engine.events.event_types import CertificateReloaded
from meshwright.engine.sql.folder import SOCKET_NAME, write_private
from meshwright.mesh.identity.auth import Authenticators, Credentials, Unauthenticated
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.keys import Keys
from tests.support.http_mesh import http_mesh
from tests.support.running_mesh import UP, mesh, mesh_up
from tests.support.settings import load_settings

OFFLINE = {"MESH_MODELS__ADAPTER": "offline"}
ADMIN_TOKEN = "the-admin-token-of-this-test-is-long"


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own for 127.0.0.1, known by its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_path, key_path


async def common_name(url: str) -> str:
    """The name in the certificate that a new connection gets."""
    host, port = url.removeprefix("https://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return str(x509.load_der_x509_certificate(der).subject.rfc4514_string()).removeprefix("CN=")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(240):
        while not await holds():
            await asyncio.sleep(0.05)


async def test_handshakes_succeed_while_the_certificate_changes(tmp_path: Path) -> None:
    certificate = Certificate(*write_certificate(tmp_path, "0"))
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", ssl=certificate.context
    )
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    changed = asyncio.Event()

    async def connect() -> None:
        while not changed.is_set():
            await common_name(url)

    clients = [asyncio.create_task(connect()) for _ in range(4)]
    for number in range(1, 60):
        write_certificate(tmp_path, str(number))
        result = await asyncio.to_thread(certificate.reload)
        assert isinstance(result, CertificateReloaded)
    changed.set()
    await asyncio.gather(*clients)
    assert await common_name(url) == "59"
    server.close()


async def test_a_new_certificate_is_served_without_dropping_connections(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "first")
    tls = {"tls_cert": cert, "tls_key": key}
    async with http_mesh(tmp_path, http=tls) as api:
        assert api.url.startswith("https://")
        assert await common_name(api.url) == "first"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
            session.get(f"{api.url}/events/stream") as stream,
        ):
            assert stream.status == 200
            cert.write_text("half of a file")  # the old one stays in use
            await until(lambda: _has(api.mesh, "certificate.rejected"))
            assert await common_name(api.url) == "first"
            write_certificate(tmp_path, "second")

            async def is_new() -> bool:
                return await common_name(api.url) == "second"

            await until(is_new)
            await until(lambda: _has(api.mesh, "certificate.reloaded"))
            text = ""
            while "certificate.reloaded" not in text:  # over the connection from before
                text += (await stream.content.readline()).decode()


async def _has(mesh: Any, event_type: str) -> bool:
    from meshwright.engine.events.filter import EventFilter

    return bool(await mesh.log.query(EventFilter(event_type=event_type)))


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "mine")
    other = tmp_path / "other"
    other.mkdir()
    _, wrong_key = write_certificate(other, "other")
    for files in ((cert, wrong_key), (cert, tmp_path / "none.pem"), (key, cert)):
        with pytest.raises(ConfigError, match="cannot be used for TLS"):
            Certificate(*files)


async def test_listening_off_loopback_needs_keys_and_tls(tmp_path: Path) -> None:
    tls = dict(zip(("tls_cert", "tls_key"), write_certificate(tmp_path, "mesh"), strict=True))
    for settings, said in (
        ({}, "requires no key and speaks no TLS. create one .*--insecure"),
        ({"require_keys": True}, "this mesh speaks no TLS. set http.tls_cert"),
        ({"http": tls}, "this mesh requires no key. create one"),
    ):
        async with http_mesh(tmp_path, **settings) as api:
            with listen("0.0.0.0", 0) as listener, pytest.raises(ConfigError, match=said):
                await serve(api.mesh, listener, lambda url: None)
    for table, said in (
        ({"tls_cert": "cert.pem"}, "tls_cert and tls_key belong together"),
        ({"behind_tls": True, "insecure": True}, "behind_tls .* and insecure .*: set one of them"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_settings(tmp_path, http=table)
    with pytest.raises(ConfigError, match=r"keys.required = false does not go with http.behind_tls"):
        load_settings(tmp_path, http={"behind_tls": True}, require_keys=False)


async def test_behind_tls_a_mesh_listens_without_it_and_requires_a_key_of_everybody(tmp_path: Path) -> None:
    where = {"MESH_HTTP__HOST": "0.0.0.0", "MESH_HTTP__ALLOWED_HOSTS": '["mesh.example"]'}
    async with mesh_up(tmp_path / "data", "--behind-tls", **where, **OFFLINE) as running:
        assert running.url.startswith("http://0.0.0.0:")
        assert "lets other machines in" not in running.errors.text
        by_name = {"Host": "mesh.example"}
        assert (await running.call("GET", "/tasks", headers=by_name)).status == 401  # although no key exists
        assert (await running.call("GET", "/readyz", headers=by_name)).status == 200
        made = await mesh("keys", "create", "--name", "ada", "--json", "--data", str(tmp_path / "data"))
        headers = by_name | {"Authorization": f"Bearer {json.loads(made.out)['key']}"}
        assert (await running.call("GET", "/tasks", headers=headers)).status == 200


@asynccontextmanager
async def where_tls_ends(folder: Path, url: str) -> AsyncIterator[str]:
    """A proxy with a certificate, which hands the bytes of each connection on to a mesh; its URL."""
    host, port = url.removeprefix("http://").split(":")

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    context = Certificate(*write_certificate(folder, "mesh.example")).context
    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


FROM_A_BROWSER = {"Host": "mesh.example", "Origin": "https://mesh.example"}
"""A proxy that adds no header of its own: its calls look as if they began on this machine."""


async def test_a_task_is_given_where_tls_ends_at_a_proxy(tmp_path: Path) -> None:
    http = {"behind_tls": True, "allowed_hosts": ["mesh.example"]}
    async with http_mesh(tmp_path, http=http) as api, where_tls_ends(tmp_path, api.url) as url:
        own = aiohttp.TCPConnector(ssl=False)  # the certificate is one of its own
        asked = {"agent_id": "echo", "payload": {"text": "Hello"}}
        async with aiohttp.ClientSession(url, connector=own, headers=FROM_A_BROWSER) as session:
            async with session.post("/tasks", json=asked) as refused:  # although no key was created
                assert refused.status == 401
            made = await api.mesh.get(Keys).create("echo")
            session.headers["Authorization"] = f"Bearer {made.key}"
            async with session.post("/tasks", json=asked) as accepted:
                place, task_id = accepted.headers["Location"], (await accepted.json())["task_id"]
                assert (accepted.status, place) == (202, f"/tasks/{task_id}")  # of no scheme and host
            assert (await api.mesh.get(Tasks).outcome(task_id)).success
            async with session.get(place) as shown:
                assert (await shown.json())["status"] == "succeeded"
            async with session.get("/tasks", headers={"Origin": "https://other.example"}) as foreign:
                assert foreign.status == 403


@pytest.mark.parametrize("host", ["mesh.example.com", "mesh.example.com:8443", "127.0.0.1:8000"])
@pytest.mark.parametrize(
    ("http", "own", "foreign"),
    [
        (
            {},
            ("https://mesh.example.com", "https://mesh.example.com:443", "http://mesh.example.com"),
            ("http://mesh.example.com:9999", "https://mesh.example.com:8080", "ftp://mesh.example.com"),
        ),
        (
            {"behind_tls": True},
            ("https://mesh.example.com",),
            ("http://mesh.example.com", "http://mesh.example.com:443", "http://mesh.example.com:8443"),
        ),
        (
            {"allowed_hosts": ["mesh.example.com:8443"]},
            ("https://mesh.example.com:8443",),
            (
                "https://mesh.example.com:9999",
                "https://mesh.example.com:8443/a",
                "https://a@mesh.example.com",
            ),
        ),
    ],
)
async def test_origins_are_compared_with_scheme_and_port(
    tmp_path: Path, host: str, http: dict[str, Any], own: tuple[str, ...], foreign: tuple[str, ...]
) -> None:
    named = {"allowed_hosts": ["mesh.example.com"]} | http
    async with http_mesh(tmp_path, http=named, admin_token=ADMIN_TOKEN) as api:
        headers = {"Host": host, "Authorization": f"Bearer {ADMIN_TOKEN}"}

        async def submit(origin: str) -> tuple[int, str | None]:
            task, named = {"agent_id": "echo"}, headers | {"Origin": origin}
            status, answer = await api.call("POST", "/tasks", json=task, headers=named)
            return status, answer.get("field")

        assert {origin: await submit(origin) for origin in own} == dict.fromkeys(own, (202, None))
        refused = dict.fromkeys(foreign, (403, "Origin"))
        assert {origin: await submit(origin) for origin in foreign} == refused


async def test_what_a_proxy_says_of_itself_gives_no_right(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, admin_token=ADMIN_TOKEN) as api:
        assert (await api.call("GET", "/tasks"))[0] == 200
        for name, value in (("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "127.0.0.1")):
            status, problem = await api.call("GET", "/tasks", headers={name: value})
            assert status == 401 and "not on the mesh's machine" in problem["detail"]
            as_admin = {name: value, "Authorization": f"Bearer {ADMIN_TOKEN}"}
            status, problem = await api.call("GET", "/api/agents/echo/llm", headers=as_admin)
            assert status == 403 and "over TLS only" in problem["detail"]


async def test_a_mesh_with_tls_is_used_over_it_and_by_its_socket(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "mesh")
    tls = {"MESH_HTTP__TLS_CERT": str(cert), "MESH_HTTP__TLS_KEY": str(key), "MESH_KEYS__REQUIRED": "true"}
    data = tmp_path / "data"
    where = ("--port", "0", "--listen", "0.0.0.0", "--data", str(data))
    process = await asyncio.create_subprocess_exec(
        *UP, *where, env=os.environ | OFFLINE | tls, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        word, url = (await process.stdout.readline()).decode().split()
        assert word == "ready" and url.startswith("https://0.0.0.0:")
        listed = await mesh("keys", "list", "--json", "--data", str(data))  # by the socket, not by TLS
        assert (listed.status, listed.out.strip()) == (0, "[]"), listed.err
        async with Client(url.replace("0.0.0.0", "127.0.0.1")) as client:
            with pytest.raises(MeshUnreachable, match="SSL_CERT_FILE"):
                await client.tasks()
    finally:
        process.terminate()
        await process.wait()
    assert not (data / SOCKET_NAME).exists()


async def test_the_socket_lets_its_own_user_in_and_no_key_is_needed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with mesh_up(data, MESH_KEYS__REQUIRED="true", **OFFLINE) as running:
        path = data / SOCKET_NAME
        assert path.is_socket() and path.stat().st_mode & 0o777 == 0o600
        async with Client(socket_path=path) as client:
            made = await client.create_key("simple-agent", tenant_id="acme", roles=["viewer"])
            assert [key.key_id for key in await client.keys()] == [made.key_id]
        async with Client(socket_path=path, api_key="mesh-admin-wrong") as client:
            with pytest.raises(Unauthenticated):  # what is shown counts
                await client.keys()
        token = (data / "admin.token").read_text()
        (data / "admin.token").unlink()
        listed = await mesh("keys", "list", "--data", str(data))
        assert (listed.status, "acme" in listed.out) == (0, True), listed.err
        others = await mesh("keys", "list", "--tenant", "other", "--json", "--data", str(data))
        assert (others.status, others.out.strip()) == (0, "[]"), others.err
        write_private(data / "admin.token", token)
        path.unlink()
        by_token = await mesh("keys", "list", "--data", str(data))
        assert (by_token.status, "acme" in by_token.out) == (0, True), by_token.err
        assert (await running.get("/tasks")).status == 401


async def test_another_user_at_the_socket_is_no_administrator(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, require_keys=True) as api:
        authenticators = api.mesh.get(Authenticators)
        for uid in (os.geteuid(), 0):
            assert (await authenticators.authenticate(Credentials(peer_uid=uid))).all_tenants
        with pytest.raises(Unauthenticated):
            await authenticators.authenticate(Credentials(peer_uid=65_534, is_local=True))


def test_a_socket_of_a_killed_mesh_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_NAME))
    left.close()
    with local_socket(tmp_path) as listener:
        assert listener is not None
    (tmp_path / SOCKET_NAME).write_text("mine")
    with local_socket(tmp_path) as listener:
        assert listener is None
    assert (tmp_path / SOCKET_NAME).read_text() == "mine"
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with local_socket(deep) as listener:
        assert listener is None
