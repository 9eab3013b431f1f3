"""Logins of browsers: the authorization code flow of OpenID Connect with PKCE, and sessions.

A login at the issuer that has begun is in a cookie of its browser, which the mesh alone can read, so nothing
is stored for logins that come to no end, and any worker can finish them. A code counts once, which the issuer
sees to. The cookie of a session stands for the key or token that it was made with, and ends with that.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from secrets import token_urlsafe
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from meshwright.component import Authenticators, Caller, Credentials, Mesh
from meshwright.core.redaction import foreign_words
from meshwright.edges.http.settings import HttpSettings
from meshwright.kit import ConfigError, InvalidInput, Session, Struct, encode, short
from meshwright.mesh.identity.auth import Unauthenticated
from meshwright.mesh.identity.oidc import IssuerUnavailable, OidcTokens, fetch
from meshwright.mesh.identity.settings import OidcSettings
from meshwright.parts.page.settings import PageSettings

SECONDS = 600
"""How long a person has to log in at the issuer."""
CALLBACK = "/session/callback"
_BYTES = 32
_VERIFIER_BYTES = 48
_MAX_CHARS = 4_096
_MAX_EXCHANGES = 8  # at a time: a flood of callbacks is not to become one at the issuer
_AGAIN = "Open the page and log in again"
_CLIENT = "Compare oidc.audience and oidc.client_secret with the client that the issuer has for this mesh"
_REMEDIES = {
    "access_denied": "Log in as a person whom the issuer lets in, or ask those who run it",
    "invalid_client": _CLIENT,
    "unauthorized_client": _CLIENT,
    "invalid_scope": "Correct oidc.scopes: the issuer does not know them all",
    "server_error": "Log in again in a minute",
    "temporarily_unavailable": "Log in again in a minute",
}


class LoginAttempt(Struct):
    """A login that a browser began: the words that the issuer has to repeat, and the proof of who asked."""

    state: str
    nonce: str
    verifier: str
    expires_at: float


class CodeFlow:
    """Sends people to the issuer, and takes what they come back with."""

    def __init__(self, mesh: Mesh, tokens: OidcTokens) -> None:
        self._settings = mesh.settings[OidcSettings]
        self._cipher = mesh.cipher
        self._now = mesh.runtime.clock.now
        self._tokens = tokens
        self._exchanging = asyncio.Semaphore(_MAX_EXCHANGES)

    @property
    def issuer(self) -> str:
        """The name of the issuer, for people."""
        return urlsplit(self._settings.issuer or "").netloc

    async def check(self) -> str:
        """Ask the issuer whether people can log in. Returns a sentence. Raises IssuerUnavailable."""
        discovery = await self._tokens.discovery()
        for name in ("authorization_endpoint", "token_endpoint"):
            self._address(discovery, name)
        return f"{self.issuer} logs people in, who come back to {self._settings.url or ''}{CALLBACK}"

    async def begin(self, own_url: str) -> tuple[str, str]:
        """The address to send a browser to, and the cookie for it. Raises IssuerUnavailable."""
        address = self._address(await self._tokens.discovery(), "authorization_endpoint")
        attempt = LoginAttempt(
            state=token_urlsafe(_BYTES),
            nonce=token_urlsafe(_BYTES),
            verifier=token_urlsafe(_VERIFIER_BYTES),
            expires_at=self._now().timestamp() + SECONDS,
        )
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._settings.audience,
            "redirect_uri": self._redirect_uri(own_url),
            "scope": " ".join(dict.fromkeys(["openid", *self._settings.scopes])),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        joint = "&" if urlsplit(address).query else "?"
        return f"{address}{joint}{urlencode(query)}", self._cipher.encrypt(encode(attempt).decode())

    def attempt(self, cookie: str, state: str) -> LoginAttempt:
        """The login that this browser began. Raises InvalidInput where it began none, or another."""
        wrong = InvalidInput("This browser has not begun that login", remedy=_AGAIN, field="state")
        try:
            attempt = LoginAttempt.model_validate_json(self._cipher.decrypt(cookie[:_MAX_CHARS]))
        except (ConfigError, ValueError):
            raise wrong from None
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise wrong
        if attempt.expires_at <= self._now().timestamp():
            raise InvalidInput("The login took too long", remedy=_AGAIN, field="state")
        return attempt

    async def finish(self, attempt: LoginAttempt, answer: Mapping[str, str], own_url: str) -> str:
        """The token of the person, for what the issuer sent the browser back with.

        Raises Unauthenticated where the issuer refuses, or another answers; IssuerUnavailable.
        """
        discovery = await self._tokens.discovery()
        issuer = answer.get("iss")
        if issuer is None and discovery.get("authorization_response_iss_parameter_supported") is True:
            raise Unauthenticated("The answer does not say which issuer it is of", remedy=_AGAIN)
        if issuer not in (None, discovery["issuer"]):
            raise Unauthenticated("The answer is of another issuer", remedy=_AGAIN)
        if "error" in answer:
            raise self._refusal(answer)
        code = answer.get("code", "")
        if not 0 < len(code) <= _MAX_CHARS:
            raise Unauthenticated("The issuer sent no code", remedy=_AGAIN)
        token = await self._exchange(discovery, code, attempt.verifier, own_url)
        self._check(await self._tokens.claims(token), attempt)
        return token

    def _check(self, claims: Mapping[str, Any], attempt: LoginAttempt) -> None:
        """Raise Unauthenticated for a token of another login, or of another client."""
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), attempt.nonce.encode()):
            raise Unauthenticated("The token is of another login", remedy=_AGAIN)
        if claims.get("azp", self._settings.audience) != self._settings.audience:
            raise Unauthenticated("The token is of another client of the issuer", remedy=_AGAIN)

    async def _exchange(self, discovery: Mapping[str, Any], code: str, verifier: str, own_url: str) -> str:
        """The ID token for a code."""
        import aiohttp

        client, secret = self._settings.audience, self._settings.client_secret
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri(own_url),
            "code_verifier": verifier,
        }
        headers: dict[str, str] = {}
        methods = discovery.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret is None:
            form |= {"client_id": client}
        elif "client_secret_basic" in methods:
            both = f"{quote(client, safe='')}:{quote(secret.get_secret_value(), safe='')}"
            headers = {"Authorization": f"Basic {b64encode(both.encode()).decode()}"}
        else:
            form |= {"client_id": client, "client_secret": secret.get_secret_value()}
        try:
            async with self._exchanging:
                address = self._tokens.address(discovery, "token_endpoint")
                status, answer = await fetch("POST", address, data=form, headers=headers)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._broken(error) from error
        token = answer.get("id_token")
        if status != 200:
            raise self._refusal(answer)
        if not isinstance(token, str):
            raise Unauthenticated("The issuer gave no ID token", remedy=_AGAIN)
        return token

    def _refusal(self, answer: Mapping[str, Any]) -> Unauthenticated:
        """The issuer's own words, without what looks like a secret."""
        code, text = str(answer.get("error", "unknown error")), str(answer.get("error_description", ""))
        reason = _masked(f"{code}: {text}" if text else code)
        return Unauthenticated(
            f"{self.issuer} refused the login: {reason}", remedy=_REMEDIES.get(code, _AGAIN)
        )

    def _address(self, discovery: Mapping[str, Any], name: str) -> str:
        try:
            return self._tokens.address(discovery, name)
        except ValueError as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> IssuerUnavailable:
        reason = _masked(str(error) or type(error).__name__)
        return IssuerUnavailable(
            f"No login is possible: {self.issuer} does not answer as an issuer does ({reason})",
            remedy="Log in again in a minute",
        )

    def _redirect_uri(self, own_url: str) -> str:
        return f"{self._settings.url or own_url}{CALLBACK}"


def _masked(text: str) -> str:
    """The words of another program, on one line and without what looks like a secret."""
    return short(foreign_words(text, max_chars=_MAX_CHARS))


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
        if credentials.token or not credentials.header("cookie"):
            return None
        cookie = credentials.cookie(self.cookie_name(credentials.header("host")))
        if not cookie:
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
