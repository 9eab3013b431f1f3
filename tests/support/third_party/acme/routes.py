"""Acme's routes."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from meshwright import Mesh
from meshwright.edges.http.routing import SubmitterDep, ViewerDep, make_router


class WantedPage(BaseModel):
    """A page."""

    text: str


def make_routes(calls: Callable[[], Awaitable[dict[str, Any]]]) -> list[APIRouter]:
    """Returns a usual router, an open one, and one for clients of OpenAI's API."""
    router, public = make_router("pager"), make_router("pager", is_open=True)
    openai = make_router("pager", errors="openai", max_body=1_000)

    @router.get("/pager")
    async def pages(caller: ViewerDep) -> dict[str, Any]:
        return await calls()

    @router.post("/v1/pages")
    @openai.post("/pager/chat")
    async def send(caller: SubmitterDep, wanted: WantedPage) -> WantedPage:
        return wanted

    @public.get("/pager/status")
    async def status() -> dict[str, str]:
        return {"status": "ok"}

    return [router, public, openai]


class Person(BaseModel):
    """A person on call."""

    person: str
    hours: int
    note: str = ""


def make_rota_routes(mesh: Mesh) -> APIRouter:
    """Returns the routes of what `Rota` keeps."""
    router = make_router("rota")
    people: dict[str, Person] = {}

    @router.get("/rota")
    async def listed(caller: ViewerDep) -> dict[str, list[Person]]:
        return {"items": [*people.values()]}

    @router.post("/rota")
    async def join(caller: SubmitterDep, person: Person) -> Person:
        people[person.person] = person
        mesh.tell("rota.joined", person.model_dump())
        return person

    @router.get("/rota/{name}")
    async def show(caller: ViewerDep, name: str) -> Person:
        return people[name]

    @router.delete("/rota/{name}")
    async def leave(caller: SubmitterDep, name: str) -> Person:
        return people.pop(name)

    return router
