"""The component of MCP servers: who has agreed to which of their tools, and the operations on that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from meshwright.core.access import Role
from meshwright.core.errors import NotFound
from meshwright.core.messages import Caller
from meshwright.events.audit import Audit
from meshwright.events.inbox_sources import WholeInbox
from meshwright.identity.rules import Rule
from meshwright.mcp.consent import (
    ACCEPTED,
    REFUSED,
    Consents,
    ConsentView,
    Deciding,
    WithheldTools,
    difference,
)
from meshwright.mcp.settings import McpServerSettings, server_of
from meshwright.mcp.sign_in import SIGNED_IN, SIGNED_OUT, SignedIn, SignIns
from meshwright.mesh import Mesh
from meshwright.sql.encrypted import Secrets

if TYPE_CHECKING:
    pass

SEE = Rule("sees MCP servers", (Role.VIEWER,))
LOGIN = Rule("signs in to MCP servers", (Role.ADMIN,), all_tenants=True)
ACCEPT = Rule("accepts tools of MCP servers", (Role.ADMIN,), all_tenants=True)


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


class McpServerView(BaseModel):
    """A server of [mcp]: its command or address, the patterns of its table, and the consent to its tools.

    `signed_in` says whether the mesh has tokens for it.
    """

    id: str
    where: str
    tools: list[str]
    approve: str
    agents: list[str]
    accepted: list[str]
    withheld: list[WithheldTool]
    signed_in: bool = False


class McpOperations:
    """The MCP servers of a mesh. Each operation raises NotFound for one that has no table.

    It raises the errors of `SEE` or `ACCEPT` for a caller who may not see them or accept tools.
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

    async def servers(self, caller: Caller) -> list[McpServerView]:
        """All servers, by name."""
        SEE.check(caller)
        return [await self._view(name) for name in sorted(self.config)]

    async def server(self, caller: Caller, name: str) -> McpServerView:
        """One server."""
        SEE.check(caller)
        return await self._view(name)

    async def accept(self, caller: Caller, name: str, tool: str, digest: str) -> McpServerView:
        """Agree to a tool that is withheld, named by its `digest`. Raises Conflict where it has changed."""
        return await self._change(caller, ACCEPTED, name, tool, digest)

    async def refuse(
        self, caller: Caller, name: str, tool: str, digest: str, reason: str = ""
    ) -> McpServerView:
        """Leave a tool withheld as its `digest` names it, and do not ask again. Raises what `accept` does."""
        return await self._change(caller, REFUSED, name, tool, digest, reason)

    async def sign_in(self, caller: Caller, name: str, signed_in: SignedIn | None) -> None:
        """Keep the tokens of a server, encrypted, or forget them; it needs no table yet."""
        LOGIN.check(caller)
        action = SIGNED_IN if signed_in else SIGNED_OUT
        content = {"server": name, "url": signed_in.url if signed_in else ""}
        async with self.mesh.get(Audit).change(caller, action, f"mcp/{name}", content):
            await self._sign_ins.keep(name, signed_in)

    async def _change(
        self, caller: Caller, action: str, name: str, tool: str, digest: str, reason: str = ""
    ) -> McpServerView:
        ACCEPT.check(caller)
        self._settings_of(name)
        content = {"server": name, "tool": tool, "digest": digest, "reason": reason}
        change = self._consents.accept if action == ACCEPTED else self._consents.refuse
        async with self.mesh.get(Audit).change(caller, action, f"mcp/{name}", content):
            deciding = Deciding(tool=tool, digest=digest, by=caller.requested_by, reason=reason)
            return await self._view_of(name, await change(name, deciding))

    async def _view(self, name: str) -> McpServerView:
        self._settings_of(name)
        return await self._view_of(name, await self._consents.view(name))

    def _settings_of(self, name: str) -> McpServerSettings:
        if name not in self.config:
            listed = ", ".join(sorted(self.config))
            raise NotFound(f"There is no table [mcp.{name}]", remedy=f"There are {listed}", field="server")
        return self.config[name]

    async def _view_of(self, name: str, consent: ConsentView) -> McpServerView:
        settings = self._settings_of(name)
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
            where=server_of(name, settings, self.mesh.project).where,
            tools=list(settings.tools),
            approve=settings.approve,
            agents=list(settings.agents),
            accepted=sorted(consent.accepted.keys() - consent.withheld.keys()),
            withheld=withheld,
            signed_in=await self._sign_ins.has(name),
        )
