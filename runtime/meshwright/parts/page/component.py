"""The component of the page and its logins."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.component import Authenticator, Component, Mesh, Pages
from meshwright.kit import EncryptedColumn
from meshwright.mesh.components import Check
from meshwright.mesh.identity.settings import OidcSettings
from meshwright.parts.page.login import Logins
from meshwright.parts.page.settings import PageSettings

if TYPE_CHECKING:
    from fastapi import APIRouter

    from meshwright.parts.page.login import CodeFlow


class PageComponent(Component):
    """The page at `/`, where the settings want one: files for browsers, and a cookie in place of a key."""

    name = "page"
    config: PageSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._logins = mesh.provide(Logins(mesh, self.config))
        self._flow: CodeFlow | None = None
        if self._is_there and mesh.settings[OidcSettings].login:
            from meshwright.mesh.identity.oidc import OidcTokens
            from meshwright.parts.page.login import CodeFlow

            self._flow = mesh.provide(CodeFlow(mesh, mesh.get(OidcTokens)))

    @property
    def _is_there(self) -> bool:
        return self.config.enabled and self.mesh.has_log

    def migrations(self) -> Traversable:
        """The table `sessions`."""
        return self.folder("tables")

    def encrypted(self) -> Iterable[EncryptedColumn]:
        """The keys and tokens of logins."""
        return [EncryptedColumn("sessions", "token")]

    def authenticator(self) -> Authenticator | None:
        """The cookie of a login."""
        return self._logins if self._is_there else None

    def routes(self) -> list[APIRouter]:
        """/session, /me, versions of prompt files, and the way to the issuer where the settings offer it."""
        from meshwright.parts.page.routes import code_router, login_router, prompt_router, router

        if not self._is_there:
            return []
        login_routers = [login_router] if self._flow is None else [login_router, code_router]
        return [*login_routers, router, prompt_router]

    def checks(self) -> Iterable[Check]:
        """Whether people can log in at the issuer."""
        return [Check("login", self._flow.check)] if self._flow else []

    def pages(self) -> Iterable[Pages]:
        """The page, which is open: it shows nothing of the mesh before its reader has logged in."""
        return [Pages("/", self.folder("web"), is_open=True)] if self._is_there else []
