"""Logins of browsers: a cookie stands for the key or token that it was made with, and ends with that."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection

from meshwright.core.messages import Caller
from meshwright.edges.http.settings import HttpSettings
from meshwright.identity.auth import Authenticators, Credentials, Unauthenticated
from meshwright.mesh import Mesh
from meshwright.services.page.settings import PageSettings
from meshwright.sql.database import Session

_COOKIE = "mesh_session"
_COOKIE_BYTES = 32
_REMEDY = (
    "`mesh keys create --name NAME` makes a key; the administrator's token is in admin.token "
    "of the data folder"
)
_INSERT = "sessions (digest, token, created_at, expires_at)"
_FIND = "SELECT token FROM sessions WHERE digest = ? AND expires_at > ?"
_DELETE = "DELETE FROM sessions WHERE digest = ?"
_PRUNE = """
    DELETE FROM sessions WHERE expires_at <= ? OR created_at <=
    (SELECT created_at FROM sessions ORDER BY created_at DESC LIMIT 1 OFFSET ?)
"""


class Logins:
    """The logins of a mesh, by the cookie of the browser. An authenticator of callers."""

    headers: Collection[str] = ("cookie", "host")

    def __init__(self, mesh: Mesh, settings: PageSettings) -> None:
        self._mesh = mesh
        self._settings = settings

    def cookie_name(self, host: str) -> str:
        """The name of the cookie for the origin that a browser calls by a Host header.

        Browsers send cookies to all ports of a host, so each port has its own name. With TLS no other host,
        nor a page below one, can set it.
        """
        http = self._mesh.settings[HttpSettings]
        if http.behind_tls or http.tls_cert:
            return f"__Host-{_COOKIE}"
        port = host.rpartition(":")[2]
        return f"{_COOKIE}_{port}" if port.isdecimal() else _COOKIE

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """The caller of a browser that has logged in. A key or token of the request itself counts first.

        Raises Unauthenticated where the login has ended, or what it was made with.
        """
        cookie = credentials.cookie(self.cookie_name(credentials.header("host")))
        if not cookie or credentials.token:
            return None
        now = self._mesh.runtime.clock.now().timestamp()
        token = await self._mesh.database.read(_find, _digest(cookie), now)
        if token is None:
            raise Unauthenticated("The login has ended", remedy="Log in again")
        return await self._caller(self._mesh.cipher.decrypt(token))

    async def open(self, token: str) -> tuple[str, Caller, float]:
        """Log a browser in: its cookie, the caller, and for how many seconds. Durable when this returns.

        Raises Unauthenticated for a token that is none.
        """
        caller = await self._caller(token)
        now = self._mesh.runtime.clock.now()
        seconds = self._settings.session_hours * 3600
        if caller.expires_at is not None:
            seconds = min(seconds, (caller.expires_at - now).total_seconds())
        cookie, began = secrets.token_urlsafe(_COOKIE_BYTES), now.timestamp()
        row = (_digest(cookie), self._mesh.cipher.encrypt(token), began, began + seconds)
        await self._mesh.database.write(_add, row, self._settings.max_sessions)
        return cookie, caller, seconds

    async def close(self, cookie: str) -> None:
        """End a login. Idempotent."""
        await self._mesh.database.write(_remove, _digest(cookie))

    async def _caller(self, token: str) -> Caller:
        """The caller that shows a token, wherever the request comes from. Raises Unauthenticated for none."""
        caller = await self._mesh.get(Authenticators).authenticate(Credentials(token=token))
        if caller.requested_by == Caller().requested_by:  # a mesh that lets everybody in
            raise Unauthenticated("That is no key or token of this mesh", remedy=_REMEDY, field="token")
        return caller


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def _find(session: Session, digest: str, now: float) -> str | None:
    row = session.execute(_FIND, (digest, now)).fetchone()
    return None if row is None else row[0]


def _add(session: Session, row: tuple[str, str, float, float], most: int) -> None:
    session.execute(_PRUNE, (row[2], most - 1))
    session.insert(_INSERT, [row])


def _remove(session: Session, digest: str) -> None:
    session.execute(_DELETE, (digest,))
