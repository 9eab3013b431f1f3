"""`/mcp`: MCP servers, the consent to their tools, and decisions on those that are withheld."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path
from pydantic import BaseModel, Field

from meshwright.core.errors import InvalidInput
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.mcp.operations import ACCEPT, LOGIN, SEE, McpOperations, McpServerView
from meshwright.mcp.sign_in import MAX_KEPT_CHARS, SignedIn

router = make_router("mcp")
_NONE = {404: "There is no table [mcp.NAME] of that name."}


class McpServers(BaseModel):
    """MCP servers, by name."""

    items: list[McpServerView]


class AcceptRequest(Strict):
    """A tool that is withheld, as its digest names it."""

    tool: str = Field(min_length=1, max_length=1_000)
    digest: str = Field(min_length=1, max_length=64)


class RefuseRequest(AcceptRequest):
    """A tool that stays withheld, and why."""

    reason: str = Field(default="", max_length=4_000)


async def _operations_of(mesh: MeshDep) -> McpOperations:
    return mesh.get(McpOperations)


_Service = Annotated[McpOperations, Depends(_operations_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_LoginDep = Annotated[Caller, by_rule(LOGIN)]
_AdminDep = Annotated[Caller, by_rule(ACCEPT)]
_Name = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("/mcp", summary="List MCP servers")
async def _list_servers(servers: _Service, caller: _ViewerDep) -> McpServers:
    """List the servers with tables [mcp.NAME], with the tools that are agreed to."""
    return McpServers(items=await servers.servers(caller))


@router.get("/mcp/{name}", summary="Show a server", responses=problems(_NONE))
async def _show_server(servers: _Service, caller: _ViewerDep, name: _Name) -> McpServerView:
    """Show a server with its tools: those agreed to, and those that are withheld."""
    return await servers.server(caller, name)


@router.post(
    "/mcp/{name}/accept",
    summary="Accept a tool",
    responses=problems({**_NONE, 409: "The tool has changed since its digest was read."}),
)
async def _accept_tool(
    servers: _Service, caller: _AdminDep, name: _Name, body: AcceptRequest
) -> McpServerView:
    """Offer a tool again that is withheld, since it is new or its description has changed."""
    return await servers.accept(caller, name, body.tool, body.digest)


@router.post(
    "/mcp/{name}/refuse",
    summary="Refuse a tool",
    responses=problems({**_NONE, 409: "The tool has changed since its digest was read."}),
)
async def _refuse_tool(
    servers: _Service, caller: _AdminDep, name: _Name, body: RefuseRequest
) -> McpServerView:
    """Leave a tool withheld as it is now. Its item leaves the inbox, until the tool changes again."""
    return await servers.refuse(caller, name, body.tool, body.digest, body.reason)


class SignInRequest(Strict):
    """The tokens of a server, as JSON text: `mesh mcp login` gets them."""

    signed_in: str = Field(max_length=MAX_KEPT_CHARS)


@router.put("/mcp/{name}/sign-in", status_code=204, summary="Store tokens")
async def _sign_in(servers: _Service, caller: _LoginDep, name: _Name, body: SignInRequest) -> None:
    """Store the tokens of a sign-in to a server, encrypted; no answer shows them again."""
    try:
        signed_in = SignedIn.model_validate_json(body.signed_in)
    except (ValueError, TypeError) as error:
        raise InvalidInput("these are no tokens of a server", field="signed_in") from error
    await servers.sign_in(caller, name, signed_in)


@router.delete("/mcp/{name}/sign-in", status_code=204, summary="Forget tokens")
async def _sign_out(servers: _Service, caller: _LoginDep, name: _Name) -> None:
    """Forget the tokens of a server. They are not revoked there."""
    await servers.sign_in(caller, name, None)
