"""`/session/oidc` and `/session/callback`: a browser logs in at the issuer. No programs call them."""

from __future__ import annotations

from html import escape

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from meshwright.core.errors import Forbidden, MeshError
from meshwright.edges.http.errors import error_response
from meshwright.edges.http.routing import MeshDep, make_router, record_misuse
from meshwright.mesh import Mesh
from meshwright.services.page.login import CALLBACK, SECONDS, CodeFlow
from meshwright.services.page.routes import is_secure, open_login

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
