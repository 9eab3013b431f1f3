"""Bearer tokens of an OpenID Connect issuer. Its keys are cached, and fetched again when they rotate."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json

from meshwright.core.errors import ConfigError, HostError, Unauthenticated
from meshwright.core.http_calls import read_bounded
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.core.plugins import install_command
from meshwright.mesh.identity.auth import Credentials
from meshwright.mesh.identity.settings import OidcSettings

if TYPE_CHECKING:
    import jwt

_ALGORITHMS = {"RS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}
"""The algorithms of tokens with their keys: nothing symmetric, and not `none`."""
_MIN_RSA_BITS = 2048
_MAX_TOKEN_CHARS = 16_384
_MAX_BYTES = 262_144
_MAX_KEYS = 100
_FETCH_SECONDS = 5.0
_REFETCH_SECONDS = 60.0
_MAX_NAME_CHARS = 128
_LEEWAY_SECONDS = 30
_REMEDY = "Get a new token from the issuer"


class IssuerUnavailable(HostError):
    """The issuer's keys cannot be fetched to check tokens."""


class OidcTokens:
    """Checks the tokens of one issuer. Raises ConfigError where the extra `oidc` is not installed."""

    headers: Collection[str] = ()

    def __init__(self, issuer: str, settings: OidcSettings) -> None:
        try:
            import jwt
        except ImportError:
            raise ConfigError(
                "the settings name an OIDC issuer, and the extra that checks its tokens is not installed",
                remedy=install_command("oidc"),
                field="oidc",
            ) from None
        self._jwt = jwt
        self._issuer = issuer
        self._settings = settings
        self._discovery: Mapping[str, Any] = {}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._problem = ""
        self._fetching = asyncio.Lock()

    async def check(self) -> str:
        """Fetch the keys. Returns a sentence. Raises IssuerUnavailable where there are none of use."""
        await self._fetch()
        if not self._keys:
            remedy = "Correct oidc.issuer (MESH_OIDC__ISSUER), or see whether the issuer runs"
            raise IssuerUnavailable(self._problem, remedy=remedy)
        return f"{self._issuer} has {len(self._keys)} usable key{'s' * (len(self._keys) != 1)}"

    async def authenticate(self, credentials: Credentials) -> Caller | None:
        """The caller that a token names; None for what is no token of an issuer.

        Raises Unauthenticated for a wrong token, and IssuerUnavailable without keys.
        """
        if credentials.token.count(".") != 2:
            return None
        return self._caller(await self.claims(credentials.token))

    async def discovery(self) -> Mapping[str, Any]:
        """The issuer's description of itself, as old as its keys. Raises IssuerUnavailable."""
        await self._refresh(lambda: not self._discovery)
        if not self._discovery:
            raise self._unavailable("No login is possible")
        return self._discovery

    async def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of a token of the issuer for this mesh. Raises Unauthenticated, IssuerUnavailable."""
        jwt, settings = self._jwt, self._settings
        try:
            if len(token) > _MAX_TOKEN_CHARS:
                raise jwt.InvalidTokenError("it is too long")
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), str(header.get("kid", ""))
            if algorithm not in _ALGORITHMS:
                raise jwt.InvalidAlgorithmError("its algorithm is none of " + ", ".join(_ALGORITHMS))
            key = await self._key(key_id)
            if key is None or key.algorithm_name != algorithm:
                raise jwt.InvalidTokenError("the issuer has no such key")
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=settings.audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"The token is refused: {error}", remedy=_REMEDY) from None
        return claims

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        settings = self._settings
        name = _claim(claims, settings.name_claim)
        if not isinstance(name, str) or not (0 < len(name) <= _MAX_NAME_CHARS) or not name.isprintable():
            raise Unauthenticated(f"The token has no claim {settings.name_claim!r}", remedy=_REMEDY)
        tenant_id: Any = settings.tenant
        if settings.tenant_claim is not None:
            tenant_id = _claim(claims, settings.tenant_claim)
        if not isinstance(tenant_id, str) or not re.fullmatch(ID_PATTERN, tenant_id):
            raise Unauthenticated(
                f"The token's claim {settings.tenant_claim!r} names no tenant",
                remedy="It has to be letters, digits, - and _, at most 64",
            )
        groups = _claim(claims, settings.roles_claim)
        groups = groups.split() if isinstance(groups, str) else groups if isinstance(groups, list) else []
        granted_roles = {
            role for group in groups if isinstance(group, str) for role in settings.roles.get(group, ())
        }
        roles = frozenset(map(str, granted_roles or settings.default_roles))
        try:
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (OverflowError, ValueError, OSError):
            raise Unauthenticated("The token is refused: its exp is no time", remedy=_REMEDY) from None
        return Caller(tenant_id=tenant_id, requested_by=f"oidc:{name}", roles=roles, expires_at=expires_at)

    async def _key(self, key_id: str) -> jwt.PyJWK | None:
        """The issuer's key of that id. Raises IssuerUnavailable where none can be fetched."""
        await self._refresh(lambda: key_id not in self._keys)
        if not self._keys:
            raise self._unavailable("No token can be checked")
        return self._keys.get(key_id)

    def _unavailable(self, consequence: str) -> IssuerUnavailable:
        return IssuerUnavailable(f"{consequence}: {self._problem}", remedy="Ask again in a minute")

    async def _refresh(self, lacks: Callable[[], bool]) -> None:
        """Fetch what the issuer says of itself where that is old, or lacks something, once a minute."""

        def is_due() -> bool:
            return lacks() or time.monotonic() - self._fetched > self._settings.keys_seconds

        if is_due():
            async with self._fetching:
                now = time.monotonic()
                if is_due() and now - self._tried >= _REFETCH_SECONDS:
                    self._tried = now
                    await self._fetch()

    async def _fetch(self) -> None:
        """Fetch discovery and keys; where that fails, those from before stay in use."""
        import aiohttp

        issuer = self._issuer
        try:
            discovery = await _document(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if discovery.get("issuer") != issuer:
                raise ValueError("its discovery names another issuer")
            listed = (await _document(self.address(discovery, "jwks_uri"))).get("keys")
            if not isinstance(listed, list):
                raise ValueError("its key set has no keys")
            keys = {str(jwk.get("kid", "")): key for jwk in listed[:_MAX_KEYS] if (key := self._usable(jwk))}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._problem = f"{issuer} does not answer as an issuer does ({error or type(error).__name__})"
            return
        self._discovery, self._keys, self._fetched = discovery, keys, time.monotonic()
        self._problem = f"{issuer} has no key that tokens may be signed by"

    def address(self, discovery: Mapping[str, Any], name: str) -> str:
        """An address that the issuer names: by TLS, or at the issuer's own place. Raises ValueError."""
        address = discovery.get(name)
        if not isinstance(address, str) or not _is_secure(address, self._issuer):
            raise ValueError(f"its {name} is no https address")
        return address

    def _usable(self, document: Any) -> jwt.PyJWK | None:
        """A key that tokens may be signed by; None for any other."""
        if not isinstance(document, dict) or document.get("use", "sig") != "sig":
            return None
        for algorithm, (kind, curve) in _ALGORITHMS.items():
            if document.get("kty") != kind or document.get("crv") != curve:
                continue
            if document.get("alg", algorithm) != algorithm:
                continue
            try:
                key = self._jwt.PyJWK(document, algorithm)
            except (self._jwt.PyJWTError, ValueError):
                return None
            too_short = kind == "RSA" and key.key.key_size < _MIN_RSA_BITS
            return None if too_short else key
        return None


async def _document(url: str) -> Mapping[str, Any]:
    status, document = await fetch("GET", url)
    if status != 200:
        raise ValueError(f"it answers {status}")
    return document


async def fetch(method: str, url: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
    """The status and the JSON object that an issuer answers with, within 5 s and 256 KiB.

    `options` are those of aiohttp. Raises ValueError, ClientError, TimeoutError.
    """
    import aiohttp

    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS)) as session,
        session.request(method, url, allow_redirects=False, **options) as response,
    ):
        status, (body, is_whole) = response.status, await read_bounded(response, _MAX_BYTES)
    if not is_whole:
        raise ValueError(f"its answer is larger than {_MAX_BYTES:,} bytes")
    try:
        document = from_json(body)
    except ValueError:
        raise ValueError(f"it answers {status} without JSON") from None
    if not isinstance(document, dict):
        raise ValueError("its answer is no JSON object")
    return status, document


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at a path like `realm_access.roles`, or of that very name; None where there is none."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _is_secure(address: str, issuer: str) -> bool:
    """Whether keys may be fetched there: by TLS, or from the very place of an issuer on this machine."""
    there, own = urlsplit(address), urlsplit(issuer)
    return there.scheme == "https" or (there.scheme, there.netloc) == (own.scheme, own.netloc)
