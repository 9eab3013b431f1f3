"""Where `mesh keys` finds the keys: in a running mesh, or in the data of one that does not run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from meshwright.cli.admin_token import token_of_environment
from meshwright.cli.client import Document
from meshwright.cli.reading import readable_mesh
from meshwright.cli.remote import RemoteMesh, session
from meshwright.cli.running import announced_token, announced_url
from meshwright.cli.trust import require_trust
from meshwright.errors import InvalidInput
from meshwright.mesh import Mesh
from meshwright.settings import Settings, load_settings


class Keyring(Protocol):
    """The keys of a mesh, as plain data."""

    async def required(self) -> bool:
        """Whether callers need a key."""
        ...

    async def create(
        self, agent_id: str, tenant_id: str, budget: str | None, *, force: bool = False
    ) -> Document:
        """Make one; its `key` is shown this once. `force` allows an agent that the mesh does not have."""
        ...

    async def list(self) -> list[Document]:
        """All that were made, the oldest first."""
        ...

    async def revoke(self, key_id: str) -> Document:
        """End one. Raises NotFound."""
        ...

    async def open(self) -> int:
        """Revoke all, and require none until another is made; returns how many were revoked."""
        ...


class StoredKeyring:
    """The keys in a data folder that no mesh serves."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._keys = mesh.keys

    async def create(
        self, agent_id: str, tenant_id: str, budget: str | None, *, force: bool = False
    ) -> Document:
        """Make one in the data."""
        if not force:
            self._mesh.check_agent(agent_id)
        made = await self._keys.create(agent_id, tenant_id=tenant_id, budget=budget)
        return made.model_dump(mode="json")

    async def list(self) -> list[Document]:
        """Read them from the data."""
        return [key.model_dump(mode="json") for key in await self._keys.list()]

    async def revoke(self, key_id: str) -> Document:
        """End one in the data."""
        return (await self._keys.revoke(key_id)).model_dump(mode="json")

    async def required(self) -> bool:
        """What the settings say, else the data."""
        set_to = self._mesh.settings.require_keys
        return await self._keys.required() if set_to is None else set_to

    async def open(self) -> int:
        """Revoke all in the data."""
        return await self._keys.open()


class RemoteKeyring(RemoteMesh):
    """The keys of a running mesh, which lets its administrator manage them."""

    async def required(self) -> bool:
        """`GET /keys`."""
        return (await self._call("GET", "/keys"))["required"]

    async def create(
        self, agent_id: str, tenant_id: str, budget: str | None, *, force: bool = False
    ) -> Document:
        """`POST /keys`."""
        wanted = {"agent_id": agent_id, "tenant_id": tenant_id, "budget": budget, "force": force}
        return await self._call("POST", "/keys", json=wanted)

    async def list(self) -> list[Document]:
        """`GET /keys`."""
        return (await self._call("GET", "/keys"))["items"]

    async def revoke(self, key_id: str) -> Document:
        """`DELETE /keys/{key_id}`."""
        return await self._call("DELETE", f"/keys/{quote(key_id, safe='')}")

    async def open(self) -> int:
        """`POST /keys/open`."""
        return (await self._call("POST", "/keys/open"))["revoked"]


@asynccontextmanager
async def keyring(url: str | None, data: Path | None, *, reads: bool) -> AsyncIterator[Keyring]:
    """The keys of the mesh at the URL, else of the running mesh of the data folder, else of its data."""
    settings = load_settings(Path(), data_dir=data)
    token = token_of_environment() if url else announced_token(settings)
    async with session(token) as opened:
        there = url or announced_url(settings.data_dir)
        remote = RemoteKeyring(there, opened) if there else None
        if remote is not None and (url or await remote.answers()):
            yield remote
            return
    async with stored_mesh(settings, reads=reads) as mesh:
        yield StoredKeyring(mesh)


@asynccontextmanager
async def stored_mesh(settings: Settings, *, reads: bool) -> AsyncIterator[Mesh]:
    """Open the mesh of a data folder, without an agent starting to work.

    Raises StoreLocked where another process holds it, InvalidInput where the mesh keeps its keys elsewhere.
    """
    from meshwright.app import build_mesh

    if settings.store != "sqlite":
        raise InvalidInput(
            f"no mesh runs on {settings.data_dir}, and one on {settings.store} has no keys there",
            remedy="start it with mesh up, or name one that runs: --url",
            field="host",
        )
    if reads:
        async with readable_mesh(settings) as readable:
            yield readable
        return
    require_trust(settings)
    mesh = build_mesh(settings)
    await mesh.worker.drain(0)
    async with mesh:
        yield mesh
