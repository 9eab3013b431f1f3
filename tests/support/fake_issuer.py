"""A fake OpenID Connect issuer: it serves discovery and JWKS over a real socket, and signs for tests.

It is no Keycloak: it has no logins. It has the two documents that a verifier of bearer tokens fetches, and
gives for any code what the test says.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "mesh-of-the-test"
_PLACES = {"jwks_uri": "jwks", "authorization_endpoint": "authorize?realm=mesh", "token_endpoint": "token"}


class FakeIssuer:
    """Its keys by their ids, and what it was asked for."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, tuple[str, Any]] = {}
        self.asked: list[str] = []
        self.discovery: dict[str, Any] = {}
        self.jwks: bytes | None = None
        self.for_code: tuple[int, dict[str, Any]] = (200, {})
        self.forms: list[dict[str, Any]] = []
        self.add("rs", "RS256")

    def add(self, key_id: str, algorithm: str) -> None:
        """Make one more key."""
        made = {
            "RS256": lambda: rsa.generate_private_key(65537, 2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        self.keys[key_id] = algorithm, made[algorithm]()

    def token(self, key_id: str = "rs", *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token signed with a key; a claim of None is left out."""
        now = int(time.time())
        all_claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "exp": now + 300, "iat": now, **claims}
        algorithm, key = self.keys[key_id]
        kept = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(kept, key, algorithm, {"kid": key_id, **(headers or {})})

    def document(self) -> dict[str, Any]:
        """The key set."""
        kinds = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        return {
            "keys": [
                {**json.loads(kinds[algorithm].to_jwk(key.public_key())), "kid": key_id, "use": "sig"}
                for key_id, (algorithm, key) in self.keys.items()
            ]
        }

    async def answer(self, request: web.Request) -> web.Response:
        """Serve the two documents, and take codes."""
        self.asked.append(request.path)
        if request.path == "/token":
            self.forms.append(
                dict(await request.post()) | {"authorization": request.headers.get("Authorization")}
            )
            status, document = self.for_code
            return web.json_response(document, status=status)
        if request.path == "/.well-known/openid-configuration":
            places = {name: f"{self.url}/{path}" for name, path in _PLACES.items()}
            return web.json_response({"issuer": self.url, **places, **self.discovery})
        body = json.dumps(self.document()).encode() if self.jwks is None else self.jwks
        return web.Response(body=body, content_type="application/json")


@asynccontextmanager
async def fake_issuer() -> AsyncIterator[FakeIssuer]:
    """An issuer on a free port."""
    issuer = FakeIssuer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", issuer.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        await runner.cleanup()
