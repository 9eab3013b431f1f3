"""The component of the keys of callers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from meshwright.component import Actors, Check, Component
from meshwright.events.projections import Projection
from meshwright.kernel.turns import ActorKind
from meshwright.ledger.keys import Keys
from meshwright.ledger.virtual_keys import KEY, KEYS, KeyProjection, VirtualKey, VirtualKeys
from meshwright.mesh import Mesh
from meshwright.roles import ORCHESTRATION


class KeysComponent(Component):
    """Virtual keys of callers."""

    name = "keys"
    facts: ClassVar[Mapping[str, str]] = {
        "key.*": "key_id key roles budget created_at expires_at revoked_at",
        "keys.*": "keys",
    }

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        mesh.provide(Keys(mesh.host, mesh.log, has_log=mesh.has_log))

    def projections(self) -> Iterable[Projection]:
        """The list of keys."""
        return [KeyProjection()]

    def checks(self) -> Iterable[Check]:
        """Whether the issuer has keys, where the settings name one."""
        return [Check("oidc", self._check_issuer)] if self.mesh.settings.oidc.issuer else []

    async def _check_issuer(self) -> str:
        from meshwright.identity.oidc import OidcTokens

        settings = self.mesh.settings.oidc
        assert settings.issuer is not None
        return await OidcTokens(settings.issuer, settings).check()

    def actors(self) -> Iterable[Actors]:
        """Each key, and whether callers need one."""
        return [
            Actors(ActorKind.of(VirtualKey, type=KEY), ORCHESTRATION),
            Actors(ActorKind.of(VirtualKeys, type=KEYS), ORCHESTRATION),
        ]
