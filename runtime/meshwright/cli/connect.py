"""Which mesh a command talks to: the one it is told, the one that runs on its data, or one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from meshwright.cli.admin_token import token_of_environment
from meshwright.cli.client import MeshClient
from meshwright.cli.running import announced_token, announced_url

ResultT = TypeVar("ResultT")


def talk(
    url: str | None,
    data: Path | None,
    use: Callable[[MeshClient], Awaitable[ResultT]],
    *,
    works: bool = False,
) -> ResultT:
    """Do something with the mesh that `--url` and `--data` choose, and return its result.

    `works` says whether agents may work in a mesh of this process: what only reads must not start them.
    """

    async def with_mesh() -> ResultT:
        async with connected(url, data, works=works) as mesh:
            return await use(mesh)

    return asyncio.run(with_mesh())


@asynccontextmanager
async def connected(url: str | None, data: Path | None, *, works: bool) -> AsyncIterator[MeshClient]:
    """The mesh at the URL, else the running mesh of the data folder, else one in this process."""
    if url:
        from meshwright.cli.remote import remote_mesh

        async with remote_mesh(url, f" --url {url}", token=token_of_environment()) as remote:
            yield remote
        return
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data)
    options = f" --data {data}" if data else ""
    if announced_at := announced_url(settings.data_dir):
        from meshwright.cli.remote import remote_mesh

        token = announced_token(settings)
        async with remote_mesh(announced_at, options, token=token) as remote:
            if await remote.answers():
                yield remote
                return
    if not works:
        from meshwright.cli.stored import StoredMesh

        yield StoredMesh(settings, options)
        return
    from meshwright.cli.local import local_mesh

    async with local_mesh(settings, works=True, options=options) as local:
        yield local
