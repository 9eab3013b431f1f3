"""The component of MCP servers: who has agreed to which of their tools, and the operations on that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from meshwright.component import Audit, Caller, Mesh
from meshwright.engine.sql.encryption import Secrets
from meshwright.kit import Identifier, InvalidInput, NotFound, Registry, Role, Rule, WholeInbox, operation
from meshwright.parts.mcp.consent import (
    ACCEPTED,
    REFUSED,
    Consents,
    ConsentView,
    Deciding,
    WithheldTools,
    difference,
)
from meshwright.parts.mcp.settings import McpServerSettings, find_server
from meshwright.parts.mcp.sign_in import MAX_KEPT_CHARS, SIGNED_IN, SIGNED_OUT, SignedIn, SignIns

_SEE = Rule("sees MCP servers", (Role.VIEWER,))
_LOGIN = Rule("signs in to MCP servers", (Role.ADMIN,), all_tenants=True)
_ACCEPT = Rule("accepts tools of MCP servers", (Role.ADMIN,), all_tenants=True)
_NONE = {404: "There is no table [mcp.NAME] of that name."}
_DECISION_ERRORS = {409: "The tool has changed since its digest was read.", **_NONE}
_ToolName = Annotated[str, Field(min_length=1, max_length=1_000)]
_Digest = Annotated[str, Field(min_length=1, max_length=64)]


class WithheldTool(BaseModel):
    """A tool that waits for a person: what its server says of it now, and what was agreed to before.

    `refused_by` is who has refused it as it is now.
    """

    name: str
    digest: str
    now: dict[str, Any]
    before: dict[str, Any] | None = None
    difference: str = ""
    refused_by: str = ""


class UnusableTool(BaseModel):
    """A tool that its table names and that is not offered, with the reason."""

    name: str
    reason: str


class McpServerView(BaseModel):
    """A server of [mcp]: its command or address, the patterns of its table, and the consent to its tools.

    `left_out` are the tools that cannot be offered, as the processes say that use the server. `signed_in`
    says whether the mesh has tokens for it.
    """

    id: str
    where: str
    tools: list[str]
    approve: str
    agents: list[str]
    accepted: list[str]
    withheld: list[WithheldTool]
    left_out: list[UnusableTool] = []
    signed_in: bool = False


class McpServers(BaseModel):
    """MCP servers, by name."""

    items: list[McpServerView]


class McpOperations:
    """The MCP servers of a mesh. Each operation raises NotFound for one that has no table.

    Decisions on a tool that has changed meanwhile raise Conflict.
    """

    config: Mapping[str, McpServerSettings]

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.config = mesh, mesh.settings.table("mcp")
        self._consents = mesh.provide(Consents(mesh.runtime))
        self._sign_ins = mesh.provide(SignIns(mesh.runtime, mesh.cipher))

    def assemble(self) -> None:
        """List the tools that are withheld in the inbox, and part in new keys."""
        self.mesh.get(WholeInbox).add(WithheldTools(self._consents, sorted(self.config), self._change))
        self.mesh.get(Secrets).renewals.append(lambda: self._sign_ins.renew(self.config))

    @operation(_SEE, "GET /mcp", "List MCP servers")
    async def list_servers(self, caller: Caller) -> McpServers:
        """List the servers with tables [mcp.NAME], with the tools that are agreed to."""
        return McpServers(items=[await self._view(name) for name in sorted(self.config)])

    @operation(_SEE, "GET /mcp/{name}", "Show a server", errors=_NONE)
    async def show_server(self, caller: Caller, name: Identifier) -> McpServerView:
        """Show a server with its tools: those agreed to, and those that are withheld."""
        return await self._view(name)

    @operation(
        _ACCEPT,
        "POST /mcp/{name}/accept",
        "Accept a tool",
        errors=_DECISION_ERRORS,
        request="AcceptRequest",
        about="A tool that is withheld, as its digest names it.",
    )
    async def accept_tool(
        self, caller: Caller, name: Identifier, tool: _ToolName, digest: _Digest
    ) -> McpServerView:
        """Offer a tool again that is withheld, since it is new or its description has changed."""
        return await self._change(caller, ACCEPTED, name, tool, digest)

    @operation(
        _ACCEPT,
        "POST /mcp/{name}/refuse",
        "Refuse a tool",
        errors=_DECISION_ERRORS,
        request="RefuseRequest",
        about="A tool that stays withheld, and why.",
    )
    async def refuse_tool(
        self,
        caller: Caller,
        name: Identifier,
        tool: _ToolName,
        digest: _Digest,
        reason: Annotated[str, Field(max_length=4_000)] = "",
    ) -> McpServerView:
        """Leave a tool withheld as it is now. Its item leaves the inbox, until the tool changes again."""
        return await self._change(caller, REFUSED, name, tool, digest, reason)

    @operation(
        _LOGIN,
        "PUT /mcp/{name}/sign-in",
        "Store tokens",
        status=204,
        request="SignInRequest",
        about="The tokens of a server, as JSON text: `mesh mcp login` gets them.",
    )
    async def sign_in(
        self, caller: Caller, name: Identifier, signed_in: Annotated[str, Field(max_length=MAX_KEPT_CHARS)]
    ) -> None:
        """Store the tokens of a sign-in to a server, encrypted; no answer shows them again."""
        try:
            tokens = SignedIn.model_validate_json(signed_in)
        except (ValueError, TypeError) as error:
            raise InvalidInput("these are no tokens of a server", field="signed_in") from error
        await self._keep(caller, SIGNED_IN, name, tokens)

    @operation(_LOGIN, "DELETE /mcp/{name}/sign-in", "Forget tokens", status=204)
    async def sign_out(self, caller: Caller, name: Identifier) -> None:
        """Forget the tokens of a server. They are not revoked there."""
        await self._keep(caller, SIGNED_OUT, name, None)

    async def _keep(self, caller: Caller, action: str, name: str, signed_in: SignedIn | None) -> None:
        content = {"server": name, "url": signed_in.url if signed_in else ""}
        async with self.mesh.get(Audit).change(caller, action, f"mcp/{name}", content):
            await self._sign_ins.keep(name, signed_in)

    async def _change(
        self, caller: Caller, action: str, name: str, tool: str, digest: str, reason: str = ""
    ) -> McpServerView:
        _ACCEPT.check(caller)  # the inbox comes here too
        self._find_settings(name)
        content = {"server": name, "tool": tool, "digest": digest, "reason": reason}
        change = self._consents.accept if action == ACCEPTED else self._consents.refuse
        async with self.mesh.get(Audit).change(caller, action, f"mcp/{name}", content):
            deciding = Deciding(tool=tool, digest=digest, by=caller.requested_by, reason=reason)
            return await self._server_view(name, await change(name, deciding))

    async def _view(self, name: str) -> McpServerView:
        self._find_settings(name)
        return await self._server_view(name, await self._consents.view(name))

    def _find_settings(self, name: str) -> McpServerSettings:
        if name not in self.config:
            listed = ", ".join(sorted(self.config))
            raise NotFound(f"There is no table [mcp.{name}]", remedy=f"There are {listed}", field="server")
        return self.config[name]

    async def _server_view(self, name: str, consent: ConsentView) -> McpServerView:
        settings, left_out = self._find_settings(name), self._left_out(name)
        withheld = [
            WithheldTool(
                name=tool.name,
                digest=tool.digest,
                now=tool.document,
                before=before.document if (before := consent.accepted.get(tool.name)) else None,
                difference=difference(before, tool),
                refused_by=tool.refused_by,
            )
            for tool in consent.withheld.values()
        ]
        return McpServerView(
            id=name,
            where=find_server(name, settings, self.mesh.project).where,
            tools=list(settings.tools),
            approve=settings.approve,
            agents=list(settings.agents),
            accepted=sorted(consent.accepted.keys() - consent.withheld.keys() - left_out.keys()),
            withheld=withheld,
            left_out=[UnusableTool(name=tool, reason=reason) for tool, reason in left_out.items()],
            signed_in=await self._sign_ins.has(name),
        )

    def _left_out(self, name: str) -> dict[str, str]:
        """The tools of a server that cannot be offered, with the reasons."""
        agents = (agent for agent in self.mesh.get(Registry).agents() if agent.status != "offline")
        return {
            tool: reason
            for agent in agents
            for toolset, tool, reason in agent.left_out_tools()
            if toolset == f"mcp.{name}"
        }
