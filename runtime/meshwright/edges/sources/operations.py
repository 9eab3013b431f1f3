"""The component: what services may deliver to the mesh, and which tasks that makes. No secret is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import BaseModel

from meshwright.core.access import Role
from meshwright.core.messages import Caller
from meshwright.core.money import Amount
from meshwright.core.operations import Rule, operation, visible_tenant
from meshwright.mesh.mesh import Mesh

_LIST = Rule("lists webhooks and channels", (Role.VIEWER,))


class SourceTask(BaseModel):
    """A task that deliveries of a source become: for an agent, or the best one of a capability.

    That of a webhook has the name of its `rule` and what that matches: patterns by the path of a field.
    """

    agent_id: str | None
    capability: str | None = None
    budget_usd: Amount | None = None
    rule: str | None = None
    match: Mapping[str, tuple[str, ...]] = {}
    reply: str = "none"


class SourceView(BaseModel):
    """A webhook source, a channel, or a URL to which outcomes are pushed.

    Tasks of a webhook are requested by `requested_by`, those of a channel by that and `:SENDER`. `path` takes
    its deliveries; without one the mesh connects to the service, and `connected` says whether it is, else
    None. `proved_by` is how a delivery proves who sent it. `pushes` are the outcomes that a URL gets.
    """

    id: str
    kind: str
    tenant_id: str
    requested_by: str | None = None
    path: str | None = None
    proved_by: str = "nothing"
    is_active: bool = True
    connected: bool | None = None
    tasks: tuple[SourceTask, ...] = ()
    pushes: tuple[str, ...] = ()


class SourceList(BaseModel):
    """Sources, by id."""

    items: list[SourceView]


class Sources:
    """Lists the webhooks and the channels of a mesh, whether it has any or none."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._lists: dict[str, Callable[[], Iterable[SourceView]]] = {}

    def add(self, edge: str, views: Callable[[], Iterable[SourceView]]) -> None:
        """Have an edge list its sources."""
        self._lists[edge] = views

    @operation(_LIST, "GET /webhooks", "List webhooks")
    def list_webhooks(self, caller: Caller) -> SourceList:
        """Show the sources of your tenant with their rules, and the hosts to which outcomes are pushed."""
        return self._list_sources("webhooks", caller)

    @operation(_LIST, "GET /channels", "List channels")
    def list_channels(self, caller: Caller) -> SourceList:
        """Show the channels of your tenant with the agents that answer, and whether each is connected.

        It is this process that is connected, or not.
        """
        return self._list_sources("channels", caller)

    def _list_sources(self, edge: str, caller: Caller) -> SourceList:
        tenant_id = visible_tenant(caller)
        views = self._lists[edge]() if edge in self._lists else ()
        own = (view for view in views if tenant_id in (None, view.tenant_id))
        return SourceList(items=sorted(own, key=lambda view: view.id))
