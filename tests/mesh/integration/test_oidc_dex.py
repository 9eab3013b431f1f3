"""Bearer tokens of Dex, a real issuer, which people get by a login."""

from pathlib import Path

import pytest

from meshwright.mesh.identity import oidc
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.dex_issuer import DexIssuer, dex_issuer
from tests.support.http_mesh import Api, http_mesh

PEOPLE = {
    "ada": ("acme", ["mesh-users"]),
    "vera": ("acme", ["watchers", "strangers"]),
    "eve": ("other", ["mesh-users"]),
    "mallory": ("acme", []),
}
ROLES = {"mesh-users": ["submitter", "viewer"], "watchers": ["viewer"]}


def settings(issuer: DexIssuer) -> dict[str, object]:
    claims = {"tenant_claim": "preferred_username", "roles_claim": "groups", "roles": ROLES}
    return {"issuer": issuer.url, "audience": "meshwright", **claims}


async def status(api: Api, token: str, method: str = "GET", path: str = "/tasks", **options: object) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return (await api.call(method, path, headers=headers, **options))[0]


async def test_people_that_log_in_have_their_tenant_and_roles(tmp_path: Path) -> None:
    task = {"agent_id": "echo", "task_id": "t-1"}
    async with (
        dex_issuer(tmp_path / "dex", PEOPLE) as issuer,
        http_mesh(tmp_path, oidc=settings(issuer)) as api,
    ):
        tokens = {name: await issuer.login(name) for name in PEOPLE}
        assert all(tokens.values())
        assert await status(api, tokens["ada"], "POST", json=task) == 202
        assert await status(api, tokens["vera"], "POST", json=task) == 403
        assert await status(api, tokens["mallory"]) == 403
        seen = {name: await status(api, tokens[name], path="/tasks/t-1") for name in ("ada", "vera", "eve")}
        assert seen == {"ada": 200, "vera": 200, "eve": 404}
        view = await api.mesh.get(Tasks).task("t-1", "acme")
        assert view.requested_by.startswith("oidc:")


async def test_tokens_that_dex_made_for_others_or_that_are_altered_are_refused(tmp_path: Path) -> None:
    async with (
        dex_issuer(tmp_path / "dex", PEOPLE) as issuer,
        http_mesh(tmp_path, oidc=settings(issuer)) as api,
    ):
        assert await issuer.login("ada", "guess") == ""
        token, of_eve = await issuer.login("ada"), await issuer.login("eve")
        assert await status(api, token) == 200
        assert await status(api, await issuer.login("ada", client="another")) == 401
        head, _, signature = token.split(".")
        assert await status(api, f"{head}.{of_eve.split('.')[1]}.{signature}") == 401


async def test_keys_that_dex_changed_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_REFETCH_SECONDS", 0.0)
    async with (
        dex_issuer(tmp_path / "dex", PEOPLE) as issuer,
        http_mesh(tmp_path, oidc=settings(issuer)) as api,
    ):
        before = await issuer.login("ada")
        assert await status(api, before) == 200
        await issuer.start_again()
        assert await status(api, await issuer.login("ada")) == 200
        assert await status(api, before) == 401
