"""Webhooks and channels are listed as configured, without a secret, to the tenant that they deliver to."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.access import Role
from tests.support.chat_mesh import http_channel, mattermost_channel, slack_channel, whatsapp_channel
from tests.support.fake_chats import SLACK_SECRET, WHATSAPP_SECRET, WHSEC, FakeChats
from tests.support.http_mesh import Api, http_mesh
from tests.support.running_mesh import mesh
from tests.support.tenants import holder
from tests.support.webhook_mesh import RULE, SECRET, until, webhooks

PUSH = {"url": "https://hooks.example.com/in?token=s3cret", "secret": WHSEC}
SECRETS = (SECRET, SLACK_SECRET, WHATSAPP_SECRET, WHSEC, "s3cret", "xapp-", "wa-test", "mm-test")


async def shown(*arguments: str) -> str:
    done = await mesh(*arguments)
    assert done.status == 0, done.err
    return done.out


async def listed(api: Api, path: str, **options: Any) -> dict[str, Any]:
    status, found = await api.call("GET", path, **options)
    assert status == 200, found
    assert not any(secret in json.dumps(found) for secret in SECRETS)
    return {one["id"]: one for one in found["items"]}


async def test_webhooks_are_listed_with_their_rules(tmp_path: Path) -> None:
    settings = webhooks(RULE, RULE | {"name": "second", "agent": None, "capability": "echoing"}, push=[PUSH])
    async with http_mesh(tmp_path, webhooks=settings) as api:
        found = await listed(api, "/webhooks")
        assert [*found] == ["github", "hooks.example.com"]
        github = found["github"]
        assert (github["path"], github["proved_by"]) == ("/webhooks/github", "hmac")
        assert (github["requested_by"], github["connected"]) == ("webhook:github", None)
        first, second = github["tasks"]
        assert (first["agent_id"], first["budget_usd"]) == ("echo", "0.50")
        assert first["match"] == {"event": ["issues"], "action": ["opened"]}
        assert (second["rule"], second["agent_id"], second["capability"]) == ("second", None, "echoing")
        assert found["hooks.example.com"]["pushes"] == ["*"]
        assert await listed(api, "/channels") == {}
        table = await shown("webhooks", "--url", api.url)
        assert "event=issues action=opened -> echo, $0.5000; " in table and "best for echoing" in table
        assert "no channels" in (await mesh("channels", "--url", api.url)).err


async def test_channels_are_listed_with_their_connection(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        socket = slack_channel(chats) | {"secret": None, "app_token": "xapp-test"}
        settings = {
            "phone": whatsapp_channel(chats),
            "team": mattermost_channel(chats),
            "socket": socket,
            "site": http_channel(chats, tenant="acme", budget_usd="0.20"),
            "old": http_channel(chats, active=False),
        }
        async with http_mesh(tmp_path, channels=settings, admin_token="a" * 32) as api:
            await until(lambda: len(chats.links) == 2)
            found: dict[str, Any] = {}
            while not all(found.get(name, {}).get("connected") for name in ("team", "socket")):
                found = await listed(api, "/channels")
            ways = {name: (one["path"], one["connected"]) for name, one in found.items()}
            assert ways == {
                "old": ("/channels/old", None),
                "phone": ("/channels/phone", None),
                "site": ("/channels/site", None),
                "socket": (None, True),
                "team": (None, True),
            }
            assert (found["old"]["is_active"], found["site"]["proved_by"]) == (False, "standard")
            [task] = found["site"]["tasks"]
            assert (task["agent_id"], task["budget_usd"]) == ("echo", "0.20")
            table = await shown("channels", "--url", api.url)
            assert "inactive" in table and "connected" in table and "takes messages" in table
            viewer = await holder(api, "acme", Role.VIEWER)
            assert [*await listed(api, "/channels", headers=viewer)] == ["site"]


async def test_a_channel_whose_service_is_away_is_not_connected(tmp_path: Path) -> None:
    async with FakeChats() as chats:
        gone = mattermost_channel(chats)
    async with http_mesh(tmp_path, channels={"team": gone}) as api:
        assert (await listed(api, "/channels"))["team"]["connected"] is False
        assert "not connected" in await shown("channels", "--url", api.url)


@pytest.mark.parametrize("path", ["/webhooks", "/channels"])
async def test_sources_take_the_role_of_a_viewer(tmp_path: Path, path: str) -> None:
    async with http_mesh(tmp_path, webhooks=webhooks(), admin_token="a" * 32) as api:
        submitter = await holder(api, "default", Role.SUBMITTER)
        status, problem = await api.call("GET", path, headers=submitter)
        assert status == 403 and f"may GET {path}" in problem["detail"]
