"""Acme's routes."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

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
