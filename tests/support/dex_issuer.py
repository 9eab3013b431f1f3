"""Dex, an OpenID Connect issuer, as its project builds it; people log in to it with a password."""

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yarl

from meshwright.core.encoding import encode
from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Layer, Service
from tests.support.services import Process

BUILD = Path(__file__).parent / "build"
PASSWORD = "password"
_HASH = "$2a$10$2b2cU8CPhOTaGrs1HRQuAueS7JTT5ZHsHSzYiFPm1leZck7Mc8T4W"  # bcrypt of PASSWORD
SECRET = "of-the-clients"


class DexIssuer:
    """A running Dex."""

    def __init__(self, url: str, process: Process) -> None:
        self.url = url
        self._process = process

    async def login(self, name: str, password: str = PASSWORD, *, client: str = "meshwright") -> str:
        """The ID token of a person for a client; empty where Dex refuses."""
        asked = {
            "grant_type": "password",
            "username": f"{name}@example.com",
            "password": password,
            "scope": "openid profile groups",
            "client_id": client,
            "client_secret": SECRET,
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/token", data=asked) as response,
        ):
            return (await response.json(content_type=None)).get("id_token", "")

    async def send_back(self, address: str, name: str, password: str = PASSWORD) -> str:
        """The address to which Dex sends a browser that came to one of its own, and logged in as a person."""
        async with aiohttp.ClientSession() as session:
            async with session.get(address) as form:
                assert form.status == 200, await form.text()
            data = {"login": f"{name}@example.com", "password": password}
            answer = await session.post(form.url, data=data, allow_redirects=False)
            while (to := form.url.join(yarl.URL(answer.headers["Location"]))).origin() == form.url.origin():
                answer = await session.get(to, allow_redirects=False)
        return str(to)

    async def start_again(self) -> None:
        """Kill it and start it; it keeps nothing, so that its keys are others."""
        self._process.kill()
        self._process.launch()
        await self._process.ready()


@asynccontextmanager
async def dex_issuer(
    folder: Path, people: Mapping[str, tuple[str, Sequence[str]]], *, sends_back_to: str = ""
) -> AsyncIterator[DexIssuer]:
    """Run Dex with people by name, of a tenant (their `preferred_username`) and groups.

    Browsers that log in are sent back to one address. Skips the test where Dex is not built.
    """
    found = subprocess.run(
        [sys.executable, BUILD, "dex", "--where"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("Dex is not built: make dex")
    ports = Ports()
    [port] = ports.take(1)
    url = f"http://127.0.0.1:{port}/dex"
    config = {
        "issuer": url,
        "storage": {"type": "memory"},
        "web": {"http": f"127.0.0.1:{port}"},
        "oauth2": {
            "passwordConnector": "local",
            "grantTypes": ["password", "authorization_code"],
            "skipApprovalScreen": True,
        },
        "enablePasswordDB": True,
        "staticClients": [
            {
                "id": client,
                "secret": SECRET,
                "name": client,
                "redirectURIs": [sends_back_to or f"{url}/unused"],
            }
            for client in ("meshwright", "another")
        ],
        "staticPasswords": [
            {
                "email": f"{name}@example.com",
                "hash": _HASH,
                "username": name,
                "userID": name,
                "preferredUsername": tenant,
                "groups": list(groups),
            }
            for name, (tenant, groups) in people.items()
        ],
    }
    path = folder / "dex.json"
    service = Service(
        name="dex",
        layer=Layer.STORES,
        argv=(found.stdout.strip(), "serve", str(path)),
        address=url,
        ready=f"{url}/.well-known/openid-configuration",
        files={path: encode(config).decode()},  # its settings are YAML, which JSON is
        ready_seconds=120.0,
    )
    process = Process(service, folder / "dex.log")
    process.launch()
    try:
        await process.ready()
        yield DexIssuer(url, process)
    finally:
        process.kill()
        ports.close()
