"""Acme's routes."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from meshwright.component import SubmitterDep, ViewerDep, make_router

if TYPE_CHECKING:
    from acme.night import Night


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


class SignIn(BaseModel):
    """A name; a real sign-in asks for more."""

    name: str


def night_routes(night: "Night") -> list[APIRouter]:
    """Returns an open router with the sign-in, and a usual one."""
    public, router = make_router("night", is_open=True), make_router("night")

    @public.post("/night/session")
    async def sign_in(response: Response, wanted: SignIn) -> None:
        response.set_cookie("night", night.cookies.open(wanted.name), httponly=True, samesite="strict")

    @router.delete("/night/session")
    async def sign_out(caller: ViewerDep, request: Request) -> None:
        del night.cookies.callers[request.cookies["night"]]

    @router.get("/night/passed")
    async def passed(caller: ViewerDep) -> dict[str, int]:
        return dict(night.passed)

    return [public, router]
