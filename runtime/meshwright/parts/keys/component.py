"""The component of the keys of callers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.component import Actors, Authenticator, Authenticators, Component, Mesh, Pages
from meshwright.kit import ORCHESTRATION, Projection, Role
from meshwright.mesh.components import call_hook
from meshwright.mesh.identity.auth import KeyAuthenticator
from meshwright.money.keys import KINDS, KeyProjection, Keys

if TYPE_CHECKING:
    from fastapi import APIRouter


class KeysComponent(Component):
    """Virtual keys of callers."""

    name = "keys"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(Keys(mesh.runtime, mesh.log, has_log=mesh.has_log))

    def projections(self) -> Iterable[Projection]:
        """The list of keys."""
        return [KeyProjection()]

    def authenticator(self) -> Authenticator:
        """Keys and the admin token."""
        return KeyAuthenticator(self.mesh.get(Keys), self.mesh.settings)

    def assemble(self) -> None:
        """Take the authenticators of all components."""
        mesh = self.mesh
        authenticators = call_hook(mesh, lambda component: component.authenticator())
        mesh.provide(Authenticators(authenticators, mesh.get(Keys), mesh.settings))

    def routes(self) -> APIRouter:
        """`/keys`, which a worker that offers models alone has too."""
        from meshwright.kit import make_routes
        from meshwright.parts.keys.operations import KeyOperations

        return make_routes(KeyOperations, "keys")

    def pages(self) -> Iterable[Pages]:
        """Its view of the page."""
        return [
            Pages("/ui/keys", self.folder("web"), view="Keys", place=90, group="Settings", roles=[Role.ADMIN])
        ]

    def actors(self) -> Iterable[Actors]:
        """Each key, and whether callers need one."""
        return [Actors(kind, ORCHESTRATION) for kind in KINDS]
