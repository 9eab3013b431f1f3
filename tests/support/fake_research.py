"""Fakes of search engines and package registries, by their documented answers; and a git server.

SearXNG, Brave, Tavily, PyPI, npm and the Go proxy are fakes, which refuse a wrong key or an unknown package
as the real ones do. The git server is the real `git http-backend` behind a few lines.
"""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

KEY = "tvly-brv-the-key-of-the-engine"
README = """# Parcel

Sends parcels.

## Timeouts

Pass `timeout=5` to `send`; the default is none.

## Licence

MIT
"""


class FakeWorld:
    """A server on a free port of this machine; `asked` has each request as method, path and parameters."""

    def __init__(self, repositories: Path | None = None) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.answer: Any = None
        """The answer in place of the usual one."""
        self.repositories = repositories

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/search", self._searxng)
        app.router.add_get("/res/v1/web/search", self._brave)
        app.router.add_post("/search", self._tavily)
        app.router.add_get("/pypi/{name}/json", self._pypi)
        app.router.add_get("/moved/pypi/{name}/json", self._moved)
        app.router.add_get("/@scope%2Fparcel", self._npm)
        app.router.add_get("/example.com/!parcel/@latest", self._go)
        app.router.add_route("*", "/git/{path:.*}", self._git)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def _reply(
        self, request: web.Request, asked: dict[str, Any], usual: Any, key: str | None
    ) -> web.Response:
        self.asked.append((f"{request.method} {request.path}", asked))
        if key is not None and key != KEY:
            return web.json_response({"error": f"no such key: {key}"}, status=401)
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=self.status)
        return web.json_response(usual if self.answer is None else self.answer, status=self.status)

    async def _searxng(self, request: web.Request) -> web.Response:
        assert request.query["format"] == "json"  # else it answers with HTML
        result = {"url": "https://a.example/1", "title": "A", "content": "of SearXNG", "engine": "mojeek"}
        found = {"query": request.query["q"], "number_of_results": 1, "results": [result]}
        return self._reply(request, dict(request.query), found, None)

    async def _brave(self, request: web.Request) -> web.Response:
        result = {"url": "https://a.example/2", "title": "B", "description": "of Brave"}
        dated = {**result, "page_age": "2026-09-01T00:00:00", "age": "September 1, 2026"}
        found = {"type": "search", "query": {}, "web": {"type": "search", "results": [dated, result]}}
        return self._reply(
            request, dict(request.query), found, request.headers.get("X-Subscription-Token", "")
        )

    async def _tavily(self, request: web.Request) -> web.Response:
        result = {"url": "https://a.example/3", "title": "C", "content": "of Tavily", "score": 0.9}
        found = {"query": "q", "answer": None, "results": [result], "response_time": 0.5}
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        return self._reply(request, await request.json(), found, key)

    async def _pypi(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != "parcel":
            return web.json_response({"message": "Not Found"}, status=404)
        links = {"Documentation": "https://parcel.example/docs"}
        info = {"name": "Parcel", "version": "1.4.2", "summary": "Sends parcels.", "description": README}
        found = {"info": {**info, "project_urls": links}, "releases": {}, "urls": []}
        return self._reply(request, {}, found, None)

    async def _moved(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("/pypi/parcel/json")

    async def _npm(self, request: web.Request) -> web.Response:
        repository = {"type": "git", "url": "git+https://github.com/example/parcel.git"}
        found = {"name": "@scope/parcel", "dist-tags": {"latest": "2.0.0"}, "description": "Sends."}
        return self._reply(request, {}, {**found, "readme": README, "repository": repository}, None)

    async def _go(self, request: web.Request) -> web.Response:
        origin = {"VCS": "git", "URL": "https://example.com/Parcel", "Hash": "a" * 40}
        found = {"Version": "v0.3.0", "Time": "2026-01-01T00:00:00Z", "Origin": origin}
        return self._reply(request, {}, found, None)

    async def _git(self, request: web.Request) -> web.Response:
        """Answer as a web server with git's own CGI program does."""
        assert self.repositories is not None
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.repositories),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": "",
            "PATH_INFO": f"/{request.match_info['path']}",
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.content_type,
        }
        body = await request.read()
        process = await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**environment, "CONTENT_LENGTH": str(len(body))},
        )
        output, _ = await process.communicate(body)
        head, _, content = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(body=content, status=status, headers=headers)


def repository(folder: Path, files: dict[str, str]) -> None:
    """A bare repository that is served, with one commit."""
    work = folder.with_name("work")
    work.mkdir()
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    who = {"GIT_AUTHOR_NAME": "Ann", "GIT_AUTHOR_EMAIL": "ann@example.com"}
    committer = {"GIT_COMMITTER_NAME": "Ann", "GIT_COMMITTER_EMAIL": "ann@example.com"}
    day = {"GIT_AUTHOR_DATE": "2026-02-03T00:00:00Z", "GIT_COMMITTER_DATE": "2026-02-03T00:00:00Z"}
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for command in (
        ["init", "-q", "-b", "main", "."],
        ["add", "."],
        ["commit", "-q", "-m", "Send parcels"],
        ["clone", "-q", "--bare", ".", str(folder)],
    ):
        subprocess.run(["git", *command], cwd=work, check=True, env=os.environ | who | committer | day | own)
    for setting in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        subprocess.run(["git", "config", setting, "true"], cwd=folder, check=True)
