"""The calls of a client to the things that parts of a mesh keep, such as schedules."""

from __future__ import annotations

from typing import Any

from meshwright.client.transports import RequestSender
from meshwright.core.display import Document
from meshwright.core.errors import InvalidInput
from meshwright.core.resources import Resource


class ResourceCalls:
    """The things of one kind: `await mesh.resource("schedules").get("digest")`.

    Answers are the JSON of the HTTP API. All raise what the mesh refuses: NotFound, InvalidInput, Forbidden.
    """

    def __init__(self, resource: Resource, connection: RequestSender) -> None:
        self._resource = resource
        self._connection = connection

    async def list(self, **params: Any) -> list[Document]:
        """All of them, page by page."""
        return [item async for item in self._connection.items(self._resource.path, params)]

    async def get(self, name: str) -> Document:
        """One of them."""
        return await self._connection.call("GET", self._resource.path_of(name))

    async def create(self, **fields: Any) -> Document:
        """Make one. Raises Conflict where there is one with that id."""
        return await self._connection.call("POST", self._resource.path, body=fields)

    async def put(self, name: str, **fields: Any) -> Document:
        """Change one."""
        return await self._connection.call("PUT", self._resource.path_of(name), body=fields)

    async def delete(self, name: str) -> Document | None:
        """Delete one; returns it where the mesh shows it."""
        return await self._connection.call("DELETE", self._resource.path_of(name))

    async def do(self, verb: str, name: str) -> Document | None:
        """Do with one what a verb of its commands does, such as `pause`. Raises InvalidInput."""
        known = {found.name: found for found in self._resource.verbs}
        if verb not in known:
            remedy = f"There are {', '.join(known) or 'none'}"
            raise InvalidInput(f"{self._resource.name} have no verb {verb!r}", remedy=remedy, field="verb")
        path = f"{self._resource.path_of(name)}{known[verb].path}"
        return await self._connection.call(known[verb].method, path)
