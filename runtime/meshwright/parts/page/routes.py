"""The routes of the page: log a browser in and out, who the caller is, and versions of prompt files."""

from __future__ import annotations

import asyncio
from datetime import datetime
from html import escape
from pathlib import Path as FilePath
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Path, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from meshwright import MeshError
from meshwright.agents.loader import prompts_folder
from meshwright.agents.prompts.history import PromptHistory, Version
from meshwright.component import Audit, Caller, Mesh, make_router
from meshwright.core import __version__
from meshwright.core.access import granted
from meshwright.edges.http.errors import error_response
from meshwright.edges.http.routing import CallerDep, needs, record_misuse
from meshwright.edges.http.settings import HttpSettings
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.kit import (
    ID_PATTERN,
    Forbidden,
    Input,
    MeshDep,
    NotFound,
    PromptError,
    Role,
    Struct,
    problems,
)
from meshwright.mesh.components import call_hook
from meshwright.mesh.identity.settings import OidcSettings
from meshwright.parts.page.login import CALLBACK, SECONDS, CodeFlow, Logins

login_router = make_router("page", is_open=True)
router = make_router("page")


class Login(Input):
    """The key or token to log in with."""

    token: str = Field(min_length=1, max_length=8_192, json_schema_extra={"format": "password"})


class PageView(BaseModel):
    """A view that a component adds to the page: its title, its group, and the path of its `view.js`."""

    path: str
    title: str
    group: str


class Me(BaseModel):
    """The caller, as its credentials say.

    `roles` are all that it has, those included that others imply. A caller of all tenants may name another
    one in `Mesh-Tenant`. `logged_in` says whether a cookie of this mesh came with the request. `views` are
    those that components add to the page for callers with its roles; only `GET /me` lists them.
    """

    name: str
    tenant_id: str
    all_tenants: bool
    roles: list[str]
    key_id: str | None
    expires_at: datetime | None
    logged_in: bool
    version: str = __version__
    views: tuple[PageView, ...] = ()

    @classmethod
    def from_caller(cls, caller: Caller, *, logged_in: bool) -> Me:
        """The caller."""
        return cls(
            name=caller.requested_by,
            tenant_id=caller.tenant_id,
            all_tenants=caller.all_tenants,
            roles=sorted(granted(caller.roles)),
            key_id=caller.key_id,
            expires_at=caller.expires_at,
            logged_in=logged_in,
        )


class LoginWays(BaseModel):
    """How to log in beside a key or token: `oidc` is the issuer at which `GET /session/oidc` logs in."""

    oidc: str | None = None


async def open_login(mesh: Mesh, request: Request, token: str, response: Response) -> Caller:
    """Log in with a key or token, and give the browser its cookie. Raises what `Logins.open` raises."""
    cookie, caller, seconds = await mesh.get(Logins).open(token)
    await mesh.get(Audit).record(caller, "session.opened", "session")
    response.set_cookie(
        _cookie_name(mesh, request),
        cookie,
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=is_secure(mesh, request),
    )
    return caller


def _cookie_name(mesh: Mesh, request: Request) -> str:
    return mesh.get(Logins).cookie_name(request.headers.get("host", ""))


def is_secure(mesh: Mesh, request: Request) -> bool:
    """Whether the browser speaks TLS, so that it is to send cookies by TLS alone."""
    return request.url.scheme == "https" or mesh.settings[HttpSettings].behind_tls


@login_router.get("/session", summary="Show how to log in")
async def _show_ways(mesh: MeshDep) -> LoginWays:
    """Show whether people can log in at an issuer: `GET /session/oidc` sends a browser there then."""
    oidc = mesh.settings[OidcSettings]
    return LoginWays(oidc=urlsplit(oidc.issuer or "").netloc if oidc.login else None)


@login_router.post(
    "/session",
    summary="Log a browser in",
    response_description="The cookie is HttpOnly and SameSite=Strict.",
    responses=problems({401: "The key or token is not one of this mesh."}),
)
async def _log_in(mesh: MeshDep, request: Request, login: Login, response: Response) -> Me:
    """Take a key, a token of the issuer or the admin token, and give a cookie that stands for it.

    The login ends after `session_hours`, and with the key or token. It is refused from pages of other sites.
    """
    try:
        return Me.from_caller(await open_login(mesh, request, login.token, response), logged_in=True)
    except MeshError as error:
        record_misuse(mesh, request.scope, error)
        raise


@login_router.delete("/session", status_code=204, summary="Log out")
async def _log_out(mesh: MeshDep, request: Request, response: Response) -> None:
    """End the login of the cookie, everywhere it was copied to."""
    name = _cookie_name(mesh, request)
    if cookie := request.cookies.get(name):
        await mesh.get(Logins).close(cookie)
    response.delete_cookie(name, httponly=True, samesite="strict", secure=is_secure(mesh, request))


@router.get("/me", summary="Show the caller")
async def _show_me(mesh: MeshDep, request: Request, caller: CallerDep) -> Me:
    """Show the name, the tenant and the roles of the caller, and the views that components add for it."""
    me = Me.from_caller(caller, logged_in=_cookie_name(mesh, request) in request.cookies)
    if Role.VIEWER not in me.roles:
        return me
    offers = [pages for some in call_hook(mesh, lambda part: part.pages()) for pages in some if pages.view]
    offers.reverse()  # `offered` has the last one first
    view_pages = [pages for pages in offers if not set(pages.roles).isdisjoint(me.roles)]
    view_pages.sort(key=lambda pages: pages.place)
    views = tuple(PageView(path=pages.path, title=pages.view, group=pages.group) for pages in view_pages)
    return me.model_copy(update={"views": views})


# Versions of prompt files, as git has them

prompt_router = make_router("prompts")


class PromptFileVersion(Struct):
    """A version of a prompt file: the beginning of its digest, and the commit that made it.

    `revision`, `author` and `at` are empty for a file that is not committed.
    """

    version: str
    revision: str
    author: str
    at: str
    subject: str
    text: str


class PromptFileVersions(Struct):
    """A version, and the one before it. Both are null if there is none for you."""

    now: PromptFileVersion | None = None
    before: PromptFileVersion | None = None


@prompt_router.get("/prompts/{name}/versions/{version}", summary="Show a version of a prompt file")
async def _show_version(
    mesh: MeshDep,
    caller: Annotated[Caller, needs(Role.CONTENTS)],
    name: Annotated[str, Path(pattern=ID_PATTERN)],
    version: Annotated[
        str, Path(pattern="^[0-9a-f]{12,64}$", description="As `prompt` of an outcome has it.")
    ],
) -> PromptFileVersions:
    """Show a version of a prompt file of the project and the version before it, by the git of the mesh's
    machine, as `mesh prompts diff` does. Registered prompts are at `/v1/prompts`.

    Files are the operator's: callers of another tenant than `default` get none.
    """
    if not (caller.tenant_id == DEFAULT_TENANT or caller.all_tenants or caller.is_proxy):
        return PromptFileVersions()
    path = prompts_folder(mesh.project, mesh.settings) / f"{name}.prompt"
    try:
        return await asyncio.to_thread(_find, path, version)
    except (NotFound, PromptError):  # a prompt of the agent's code, or a project without git
        return PromptFileVersions()


def _find(path: FilePath, version: str) -> PromptFileVersions:
    history = PromptHistory(path)
    entry = history.find(version)
    earlier = history.versions[history.versions.index(entry) + 1 :]
    return PromptFileVersions(now=_shown(entry), before=_shown(earlier[0]) if earlier else None)


def _shown(version: Version) -> PromptFileVersion:
    fields = {name: value for name, value in version._asdict().items() if name != "digest"}
    return PromptFileVersion(version=version.name, **fields)


# `/session/oidc` and `/session/callback`: a browser logs in at the issuer. No programs call them

code_router = make_router("page", is_open=True)
_COOKIE = "mesh_login"
_PAGE = "/"
_FAILED = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not logged in · Meshwright</title>
<link rel="stylesheet" href="/ui/style.css">
</head>
<body><main>
<h1>Not logged in</h1>
<p class="bad" role="alert">{what}</p>
<p>{remedy}</p>
<p><a href="/">To the page</a></p>
</main></body>
</html>
"""


@code_router.get("/session/oidc", include_in_schema=False)
async def _send_to_issuer(mesh: MeshDep, request: Request) -> Response:
    """Send the browser to the issuer. It is refused from pages of other sites, which may log nobody in."""
    try:
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Forbidden(
                "A page of another site began this login", remedy="Open the page and log in there"
            )
        address, cookie = await mesh.get(CodeFlow).begin(_own_url(request))
    except MeshError as error:
        return _refused(request, error)
    response = RedirectResponse(address, 303)
    secure = is_secure(mesh, request)
    response.set_cookie(
        _name(mesh, request), cookie, max_age=SECONDS, httponly=True, samesite="lax", secure=secure
    )
    return response


@code_router.get(CALLBACK, include_in_schema=False)
async def _take_back(mesh: MeshDep, request: Request) -> Response:
    """Log the browser in that the issuer sends back, and show it the page.

    It has to be the one that began, as its cookie says, so that no other page can log it in as somebody else.
    """
    flow, answer, name = mesh.get(CodeFlow), dict(request.query_params), _name(mesh, request)
    try:
        attempt = flow.attempt(request.cookies.get(name, ""), answer.get("state", ""))
    except MeshError as error:
        return _refused(request, error)
    response: Response = RedirectResponse(_PAGE, 303)
    try:
        await open_login(mesh, request, await flow.finish(attempt, answer, _own_url(request)), response)
    except MeshError as error:
        record_misuse(mesh, request.scope, error)
        response = _refused(request, error)
    response.delete_cookie(name, httponly=True, samesite="lax", secure=is_secure(mesh, request))
    return response


def _name(mesh: Mesh, request: Request) -> str:
    """The cookie of a login that has begun. With TLS no other host, nor a page below one, can set it."""
    return f"__Host-{_COOKIE}" if is_secure(mesh, request) else _COOKIE


def _own_url(request: Request) -> str:
    """The address at which the mesh got the request, whatever name the client has for it."""
    host, port = request.scope["server"]
    return (
        f"{request.url.scheme}://[{host}]:{port}" if ":" in host else f"{request.url.scheme}://{host}:{port}"
    )


def _refused(request: Request, error: MeshError) -> Response:
    """A problem, or a page for people."""
    problem = error_response(error)
    if "text/html" not in request.headers.get("accept", ""):
        return problem
    headers = {name: value for name, value in problem.headers.items() if name in ("retry-after",)}
    text = _FAILED.format(what=escape(error.message), remedy=escape(error.remedy))
    return HTMLResponse(text, problem.status_code, headers)
