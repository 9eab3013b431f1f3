"""A mesh that offers its models over HTTP, and the ways to call it."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai

from meshwright import Agent
from meshwright.core.errors import ModelError
from meshwright.edges.http.app import create_app
from meshwright.edges.http.models import GROUPS
from meshwright.edges.http.server import serving
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.models.port import Model, ModelReply, ModelRequest, OnDelta
from tests.support.settings import load_settings

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Failing:
    """A model that fails in one way, each time that it is called."""

    name = "failing"

    def __init__(self, error: ModelError) -> None:
        self.error = error
        self.calls = 0

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.calls += 1
        raise self.error

    async def close(self) -> None:
        pass


class Service:
    """A running mesh with models to offer, and ways to call it."""

    def __init__(self, mesh: Mesh, url: str, session: aiohttp.ClientSession) -> None:
        self.mesh = mesh
        self.url = url
        self.session = session

    def client(self, key: str = "none", **options: Any) -> openai.AsyncOpenAI:
        """OpenAI's own client; it repeats calls by itself, as it does by default."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, **options)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """The status and the document of an answer."""
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)


@asynccontextmanager
async def service(
    folder: Path,
    *,
    answering: Model | None = None,
    make_app: Callable[..., Any] = create_app,
    agents: Sequence[type[Agent]] = (),
    **settings: Any,
) -> AsyncIterator[Service]:
    chosen = load_settings(folder, **{"durability": "normal", "model": "offline", **settings})
    mesh = build_mesh(chosen, project=folder, agents=agents, model=answering)
    app = partial(make_app, groups=GROUPS)
    async with (
        mesh,
        serving(mesh, "127.0.0.1", 0, app) as server,
        aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=20)) as session,
    ):
        yield Service(mesh, server.url, session)
