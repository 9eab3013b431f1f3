"""Where `mesh keys` finds the keys: in a running mesh, or in the data of one that does not run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import aiohttp

from meshwright.cli.client import Document
from meshwright.cli.remote import CONNECT_SECONDS, REPLY_SECONDS, RemoteMesh
from meshwright.cli.running import announced_url
from meshwright.errors import InvalidInput
from meshwright.ledger.keys import Keys
from meshwright.settings import Settings, load_settings


class Keyring(Protocol):
    """The keys of a mesh, as plain data."""

    async def create(self, agent_id: str, tenant_id: str, budget: str | None) -> Document:
        """Make one; its `key` is shown this once."""
        ...

    async def list(self) -> list[Document]:
        """All that were made, the oldest first."""
        ...

    async def revoke(self, key_id: str) -> Document:
        """End one. Raises NotFound."""
        ...


class StoredKeyring:
    """The keys in a data folder that no mesh serves."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def create(self, agent_id: str, tenant_id: str, budget: str | None) -> Document:
        """Make one in the data."""
        made = await self._keys.create(agent_id, tenant_id=tenant_id, budget=budget)
        return made.model_dump(mode="json")

    async def list(self) -> list[Document]:
        """Read them from the data."""
        return [key.model_dump(mode="json") for key in await self._keys.list()]

    async def revoke(self, key_id: str) -> Document:
        """End one in the data."""
        return (await self._keys.revoke(key_id)).model_dump(mode="json")


class RemoteKeyring(RemoteMesh):
    """The keys of a running mesh, which lets nobody look after them from another machine."""

    async def create(self, agent_id: str, tenant_id: str, budget: str | None) -> Document:
        """`POST /keys`."""
        wanted = {"agent_id": agent_id, "tenant_id": tenant_id, "budget": budget}
        return await self._call("POST", "/keys", json=wanted)

    async def list(self) -> list[Document]:
        """`GET /keys`."""
        return (await self._call("GET", "/keys"))["items"]

    async def revoke(self, key_id: str) -> Document:
        """`DELETE /keys/{key_id}`."""
        return await self._call("DELETE", f"/keys/{quote(key_id, safe='')}")


@asynccontextmanager
async def keyring(url: str | None, data: Path | None) -> AsyncIterator[Keyring]:
    """The keys of the mesh at the URL, else of the running mesh of the data folder, else of its data."""
    settings = load_settings(Path(), data_dir=data)
    timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        there = url or announced_url(settings.data_dir)
        remote = RemoteKeyring(there, session) if there else None
        if remote is not None and (url or await remote.answers()):
            yield remote
            return
    async with stored_keys(settings) as keys:
        yield StoredKeyring(keys)


@asynccontextmanager
async def stored_keys(settings: Settings) -> AsyncIterator[Keys]:
    """Open the keys of a data folder, without an agent starting to work.

    Raises StoreLocked where another process holds it, InvalidInput where the mesh keeps its keys elsewhere.
    """
    from meshwright.assembly import build_mesh

    if settings.host != "embedded":
        raise InvalidInput(
            f"no mesh runs on {settings.data_dir}, and one on {settings.host} has no keys there",
            remedy="start it with mesh up, or name one that runs: --url",
            field="host",
        )
    mesh = build_mesh(settings)
    await mesh.worker.drain(0)
    async with mesh:
        yield mesh.keys
