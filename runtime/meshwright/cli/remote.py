"""A mesh that runs elsewhere, over its HTTP API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp

from meshwright import errors
from meshwright.cli.client import Document
from meshwright.cli.sse import server_events
from meshwright.errors import HostError, MeshError

CONNECT_SECONDS = 5.0
REPLY_SECONDS = 60.0
SILENCE_SECONDS = 60.0  # a stream that says nothing for so long, not even a comment, is dead
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0
GIVE_UP_SECONDS = 30.0  # without a connection
NOTHING_MORE = 204


class EndOfEvents(Exception):
    """The task has ended, and all its events were seen."""


class LostMesh(HostError):
    """The mesh does not answer."""


@asynccontextmanager
async def remote_mesh(url: str, options: str = "", *, token: str | None = None) -> AsyncIterator[RemoteMesh]:
    """Talk to the mesh at a URL, with an admin token or a key. Nothing is sent before the first call."""
    async with session(token) as opened:
        yield RemoteMesh(url, opened, options)


def session(token: str | None) -> aiohttp.ClientSession:
    """A session that shows a token with each request, if there is one."""
    timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS, sock_connect=CONNECT_SECONDS)
    return aiohttp.ClientSession(
        timeout=timeout, headers={"Authorization": f"Bearer {token}"} if token else None
    )


class RemoteMesh:
    """A running mesh. What it refuses is raised as the error that its problem document names."""

    is_running = True
    about = ""

    def __init__(self, url: str, session: aiohttp.ClientSession, options: str = "") -> None:
        self.where = url.rstrip("/")
        self.options = options
        self._session = session

    async def answers(self) -> bool:
        """Whether a mesh is alive at the URL."""
        try:
            async with self._session.get(f"{self.where}/healthz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False

    async def submit(self, request: Document, *, idempotency_key: str | None = None) -> Document:
        """`POST /tasks`."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._call("POST", "/tasks", json=request, headers=headers)

    async def task(self, task_id: str) -> Document:
        """`GET /tasks/{task_id}`."""
        return await self._call("GET", _task_path(task_id))

    async def tasks(self, **fields: Any) -> list[Document]:
        """`GET /tasks`."""
        return (await self._call("GET", "/tasks", params=_given(fields)))["items"]

    async def cancel(self, task_id: str) -> Document:
        """`POST /tasks/{task_id}/cancel`."""
        return await self._call("POST", _task_path(task_id) + "/cancel")

    async def answer(self, task_id: str, key: str, value: Any) -> Document:
        """`POST /tasks/{task_id}/answer`."""
        return await self._call("POST", _task_path(task_id) + "/answer", json={"key": key, "value": value})

    async def events(self, limit: int, **fields: Any) -> list[Document]:
        """`GET /events`, from the newest back."""
        found: list[Document] = []
        before: int | None = None
        while len(found) < limit:
            rest = {"limit": limit - len(found), "before_seq": before, "order": "desc"}
            page = await self._call("GET", "/events", params=_given({**fields, **rest}))
            found += page["items"]
            before = page["next_seq"]
            if before is None:
                break
        return found[::-1]

    async def last_seq(self) -> int:
        """The `seq` of the newest event."""
        newest = await self.events(1)
        return newest[-1]["seq"] if newest else 0

    async def costs(self, *, by: str, since: str | None) -> Document:
        """`GET /costs`."""
        return await self._call("GET", "/costs", params=_given({"by": by, "since": since}))

    async def budgets(self) -> list[Document]:
        """`GET /budgets`."""
        return (await self._call("GET", "/budgets"))["items"]

    async def agents(self) -> list[Document]:
        """`GET /agents`."""
        return (await self._call("GET", "/agents"))["items"]

    async def follow(self, *, after_seq: int = 0, **fields: Any) -> AsyncGenerator[Document, None]:
        """`GET /tasks/{task_id}/events` or `GET /events/stream`, taken up again after a broken connection.

        Raises LostMesh when there was no connection for 30 s.
        """
        loop = asyncio.get_running_loop()
        pause, heard_at = FIRST_PAUSE_SECONDS, loop.time()
        while True:
            try:
                async for document in self._stream(after_seq, fields):
                    after_seq = document["seq"] or after_seq  # what no log keeps has none
                    heard_at, pause = loop.time(), FIRST_PAUSE_SECONDS
                    yield document
            except EndOfEvents:
                return
            except (aiohttp.ClientError, TimeoutError) as error:
                if loop.time() - heard_at > GIVE_UP_SECONDS:
                    raise self._lost(error) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _stream(self, after_seq: int, fields: Document) -> AsyncGenerator[Document, None]:
        task_id = fields.get("task_id") if set(_given(fields)) == {"task_id"} else None
        path = _task_path(task_id) + "/events" if task_id else "/events/stream"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        async with self._session.get(
            self.where + path,
            params={} if task_id else _given(fields),
            headers={"Accept": "text/event-stream", "Last-Event-ID": str(after_seq)},
            timeout=timeout,
        ) as response:
            if response.status == NOTHING_MORE:
                raise EndOfEvents
            if response.status != 200:
                raise await _refusal(response)
            async for event in server_events(response.content.iter_any()):
                yield json.loads(event.data)

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self._session.request(method, self.where + path, **options) as response:
                if response.status >= 400:
                    raise await _refusal(response)
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> LostMesh:
        reason = str(error) or type(error).__name__
        return LostMesh(f"no mesh answers at {self.where} ({reason})", remedy="start one with: mesh up")


def _task_path(task_id: str) -> str:
    return f"/tasks/{quote(task_id, safe='')}"


def _given(fields: Document) -> Document:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


async def _refusal(response: aiohttp.ClientResponse) -> MeshError:
    """The error that a problem document describes."""
    problem = _problem(await response.text())
    message = problem.get("detail") or problem.get("title")
    if not message:
        return MeshError(
            f"{response.url} answered {response.status} in no way that a mesh does",
            remedy="Check that --url or MESH_URL is the address of a mesh",
        )
    named = getattr(errors, str(problem.get("code")), None)
    kind = named if isinstance(named, type) and issubclass(named, MeshError) else MeshError
    return kind(str(message), remedy=str(problem.get("remedy") or ""), field=str(problem.get("field") or ""))


def _problem(text: str) -> Document:
    """The JSON object in a text, or an empty one."""
    try:
        problem = json.loads(text)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
