"""The component of sign-in by OpenID Connect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from meshwright.mesh.components import Check, Component
from meshwright.mesh.identity.auth import Authenticator
from meshwright.mesh.identity.settings import OidcSettings
from meshwright.mesh.mesh import Mesh

if TYPE_CHECKING:
    from meshwright.mesh.identity.oidc import OidcTokens


class OidcComponent(Component):
    """The tokens of an issuer, where the settings name one."""

    name = "oidc"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        settings = mesh.settings[OidcSettings]
        self._tokens: OidcTokens | None = None
        if settings.issuer:
            from meshwright.mesh.identity.oidc import OidcTokens

            self._tokens = mesh.provide(OidcTokens(settings.issuer, settings))

    def authenticator(self) -> Authenticator | None:
        """The issuer's tokens."""
        return self._tokens

    def checks(self) -> Iterable[Check]:
        """Whether the issuer has keys."""
        return [Check("oidc", self._tokens.check)] if self._tokens else []
