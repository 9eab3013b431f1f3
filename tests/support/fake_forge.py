"""A fake of GitHub's and GitLab's APIs over a real socket: comments and statuses, as documented.

`answers` are given instead, in order, one for each request: rate limits and errors. `lost` counts the POSTs
that are taken and then answered with an error.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Self

from aiohttp import web

PATIENCE_SECONDS = 60


class Call(NamedTuple):
    """A request, as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class FakeForge:
    """Keeps comments by path, newest last for GitHub, newest first for GitLab (`sort=desc`)."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.comments: dict[str, list[dict[str, Any]]] = {}
        self.statuses: dict[str, list[dict[str, Any]]] = {}
        self.answers: list[web.Response | None] = []
        self.lost = 0
        self.url = ""
        self._posted: asyncio.Queue[Call] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def posted(self) -> Call:
        """The next POST that was taken."""
        return await asyncio.wait_for(self._posted.get(), PATIENCE_SECONDS)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        body = await request.json() if request.can_read_body else None
        call = Call(request.method, path, dict(request.query), dict(request.headers), body)
        self.calls.append(call)
        if self.answers and (given := self.answers.pop(0)) is not None:
            return given
        is_comment = path.endswith(("/comments", "/notes"))
        kept = (self.comments if is_comment else self.statuses).setdefault(path, [])
        if request.method == "GET":
            newest_first = request.query.get("sort") == "desc"
            listed = kept[::-1] if newest_first else kept
            size, page = int(request.query.get("per_page", 20)), int(request.query.get("page", 1))
            return web.json_response(listed[size * (page - 1) : size * page])
        kept.append({"id": len(kept) + 1, "created_at": "2999-01-01T00:00:00Z", **body})
        self._posted.put_nowait(call)
        if self.lost:
            self.lost -= 1
            return web.Response(status=503)
        return web.json_response(kept[-1], status=201)
