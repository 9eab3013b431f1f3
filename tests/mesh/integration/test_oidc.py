"""Bearer tokens of an OIDC issuer: a fake one, which signs and serves discovery and JWKS over a socket."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.http_limits import MAX_HEADER_BYTES
from meshwright.core.settings import load_settings
from meshwright.mesh.identity import oidc
from tests.support.fake_issuer import AUDIENCE, FakeIssuer, fake_issuer
from tests.support.http_mesh import Api, http_mesh

ROLES = {"mesh-users": ["submitter"], "mesh-admins": ["admin"], "watchers": ["viewer"]}


def shows(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with fake_issuer() as issuer:
        yield issuer


@asynccontextmanager
async def mesh_of(folder: Path, issuer: FakeIssuer, **more: Any) -> AsyncIterator[Api]:
    settings = {"issuer": issuer.url, "audience": AUDIENCE, "tenant_claim": "org", "roles": ROLES, **more}
    async with http_mesh(folder, oidc=settings) as api:
        yield api


async def status(api: Api, token: str, path: str = "/status") -> int:
    return (await api.call("GET", path, headers=shows(token)))[0]


async def test_a_token_says_tenant_requester_and_roles(tmp_path: Path, issuer: FakeIssuer) -> None:
    issuer.add("es", "ES256")
    issuer.add("ed", "EdDSA")
    async with mesh_of(tmp_path, issuer, roles_claim="realm_access.roles") as api:
        refused, problem = await api.call("GET", "/tasks")
        assert refused == 401  # with an issuer, an address is not enough
        assert (
            problem["detail"] == "This mesh requires a key or a token of its issuer, and the request has none"
        )
        assert "with a token of the issuer that [oidc] of mesh.toml names" in problem["remedy"]
        for key_id in issuer.keys:
            groups = {"realm_access": {"roles": ["mesh-users", "strangers"]}}
            ada = shows(issuer.token(key_id, org="acme", **groups))
            task = {"agent_id": "echo", "task_id": f"t-{key_id}"}
            assert (await api.call("POST", "/tasks", json=task, headers=ada))[0] == 202
            _, view = await api.call("GET", f"/tasks/t-{key_id}", headers=ada)
            assert (view["tenant_id"], view["requested_by"]) == ("acme", "oidc:ada")
            refused, problem = await api.call("GET", "/tasks", headers=ada)
            assert (refused, "viewer" in problem["detail"]) == (403, True)
        other = issuer.token(org="other", realm_access={"roles": ["mesh-admins"]})
        assert await status(api, other, "/tasks/t-rs") == 404
        assert (await api.call("GET", "/tasks", headers=shows(other)))[1]["items"] == []
        assert await status(api, issuer.token(org="acme")) == 403  # no role that maps to one of ours
        assert len(issuer.asked) == 2


async def test_tokens_that_are_not_right_are_refused(tmp_path: Path, issuer: FakeIssuer) -> None:
    groups = {"org": "acme", "roles": "watchers"}
    now = int(time.time())
    good = issuer.token(**groups)
    head, body, signature = good.split(".")
    stranger = FakeIssuer()
    stranger.url = issuer.url
    public = json.dumps(issuer.document()["keys"][0]).encode()
    symmetric = f"{_part({'alg': 'HS256', 'kid': 'rs'})}.{body}"
    forged = hmac.new(public, symmetric.encode(), hashlib.sha256).digest()
    wrong = {
        "expired": issuer.token(**groups, exp=now - 120),
        "not yet": issuer.token(**groups, nbf=now + 120),
        "an end that is no time": issuer.token(**groups, exp=10**18),
        "no end": issuer.token(**groups, exp=None),
        "another issuer": issuer.token(**groups, iss="http://127.0.0.1:1"),
        "another audience": issuer.token(**groups, aud="another"),
        "no audience": issuer.token(**groups, aud=None),
        "no tenant": issuer.token(roles="watchers"),
        "a tenant that is none": issuer.token(**{**groups, "org": "a/b"}),
        "every tenant": issuer.token(**{**groups, "org": "*"}),
        "no name": issuer.token(**groups, sub=None),
        "a name that is no text": issuer.token(**groups, sub=None, name=7),
        "another's key": stranger.token(**groups),
        "alg none": f"{_part({'alg': 'none'})}.{body}.",
        "alg none, signed": f"{_part({'alg': 'none', 'kid': 'rs'})}.{body}.{signature}",
        "the public key as a secret": f"{symmetric}.{_base64(forged)}",
        "the wrong algorithm": f"{_part({'alg': 'ES256', 'kid': 'rs'})}.{body}.{signature}",
        "another body": f"{head}.{_part({'sub': 'eve', 'exp': now + 99})}.{signature}",
        "a key of its own": stranger.token(**groups, headers={"jwk": stranger.document()["keys"][0]}),
        "a path as the key's name": f"{_part({'alg': 'RS256', 'kid': '../../dev/null'})}.{body}.{signature}",
        "a header without end": f"{_base64(b'[' * 9_000)}.{body}.{signature}",
        "no token": "a.b.c",
        "long": f"{head}.{body * 100}.{signature}"[: MAX_HEADER_BYTES // 2],
    }
    async with mesh_of(tmp_path, issuer) as api:
        assert await status(api, good) == 200
        for name, token in wrong.items():
            refused, problem = await api.call("GET", "/status", headers=shows(token))
            assert refused == 401, name
            assert token not in json.dumps(problem) and signature not in json.dumps(problem)
        assert len(issuer.asked) == 2  # guesses fetch nothing


async def test_rotated_keys_are_fetched_at_most_once_a_minute(
    tmp_path: Path, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {"org": "acme", "roles": ["watchers"]}
    async with mesh_of(tmp_path, issuer) as api:
        assert await status(api, issuer.token(**groups)) == 200
        issuer.add("new", "ES256")
        for _ in range(5):
            assert await status(api, issuer.token("new", **groups)) == 401
        assert len(issuer.asked) == 2
        monkeypatch.setattr(oidc, "_REFETCH_SECONDS", 0.0)
        assert await status(api, issuer.token("new", **groups)) == 200
        del issuer.keys["rs"]
        issuer.jwks = b"not json"
        issuer.add("newer", "EdDSA")
        assert await status(api, issuer.token("newer", **groups)) == 401
        assert await status(api, issuer.token("new", **groups)) == 200  # the keys from before stay in use


@pytest.mark.parametrize("fault", ["another issuer", "plain http elsewhere", "too large", "no keys", "away"])
async def test_without_the_issuers_keys_nobody_is_let_in(
    tmp_path: Path, issuer: FakeIssuer, fault: str
) -> None:
    token = issuer.token(org="acme", roles="watchers")
    if fault == "another issuer":
        issuer.discovery = {"issuer": "https://elsewhere.example"}
    elif fault == "plain http elsewhere":
        issuer.discovery = {"jwks_uri": f"{issuer.url}/jwks".replace("127.0.0.1", "localhost")}
    elif fault == "too large":
        issuer.jwks = json.dumps(issuer.document()).encode() + b" " * 300_000
    elif fault == "no keys":
        issuer.jwks = b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rs"}, 7, {"kty": "RSA"}]}'
    elif fault == "away":
        issuer.url = "http://127.0.0.1:1"
    async with mesh_of(tmp_path, issuer) as api:
        refused, problem = await api.call("GET", "/status", headers=shows(token))
        assert (refused, problem["code"]) == (503, "IssuerUnavailable"), problem
        assert (await api.call("GET", "/healthz"))[0] == 200


def test_settings_of_an_issuer_are_checked(tmp_path: Path) -> None:
    for oidc_settings, said in (
        ({"issuer": "http://login.example.com", "audience": "mesh"}, "https URL"),
        ({"issuer": "https://login.example.com"}, "audience is missing"),
        ({"issuer": "https://login.example.com", "audience": "m", "roles": {"x": ["king"]}}, "viewer"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_settings(tmp_path, oidc=oidc_settings)


def _part(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
