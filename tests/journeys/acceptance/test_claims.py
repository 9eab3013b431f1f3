"""Claims of questions on each store: of two at once one wins, and it outlives a kill -9."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from meshwright.client import Client
from tests.run import DAPR
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, ADMINS, TOKEN, Releaser
from tests.support.postgres import Address
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

UPS = [
    pytest.param((), id="sqlite"),
    pytest.param(("--host", "dapr"), id="dapr", marks=pytest.mark.needs(*DAPR)),
]
AGENT = '''
from meshwright import Agent, Capability, Run


class Clerk(Agent):
    """Waits for a person."""

    agent_id = "clerk"
    capabilities = (Capability("clerk"),)

    async def run(self, run: Run) -> str:
        return await run.ask_person("Which?")
'''
NAMES = ("ada", "bob")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def waits(client: Client, task_id: str) -> None:
    """Wait until a task asks."""
    async with aclosing(client.follow(task_id)) as events:
        async for event in events:
            if event.event_type == "task.waiting":
                return


async def key_for(caller: RunningMesh | Api, name: str) -> str:
    request = {"name": name, "roles": ["approver", "contents"]}
    status, created = await caller.call("POST", "/keys", json=request, headers=ADMIN)
    assert status < 300, created
    return created["key"]


@pytest.mark.parametrize("arguments", UPS)
async def test_a_claim_outlives_kill_9_and_refuses_others_at_the_shell(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(AGENT)
    environment = {
        "MESH_AGENTS__DIR": str(tmp_path / "actors"),
        "MESH_MODELS__ADAPTER": "offline",
        "MESH_ADMIN_TOKEN": TOKEN,
    }
    async with mesh_up(tmp_path / "data", *arguments, **environment) as running:
        async with Client(running.url, TOKEN) as client:
            task_id = (await client.submit("clerk", "Ask.")).task_id
            await waits(client, task_id)
            [question] = await client.inbox()
        keys = {name: await key_for(running, name) for name in NAMES}
        path = f"/inbox/{question.id}/claim"
        claims = [running.call("POST", path, headers=bearer(keys[name])) for name in NAMES]
        replies = dict(zip(NAMES, await asyncio.gather(*claims), strict=True))
        assert sorted(reply.status for reply in replies.values()) == [200, 409]
        [owner] = [name for name, reply in replies.items() if reply.status == 200]
        [other] = {*NAMES} - {owner}
        assert f"{owner} is looking" in replies[other].body["detail"]
        await running.kill()
    async with mesh_up(tmp_path / "data", *arguments, **environment) as running:
        at = ("--url", running.url)
        listed = await mesh("inbox", *at, MESH_ADMIN_TOKEN=keys[other])
        assert f"({owner} is looking) Which?" in listed.out, listed
        refused = await mesh("answer", question.id, "This one.", *at, MESH_ADMIN_TOKEN=keys[other])
        assert refused.status == 1 and f"{owner} is looking at that question until" in refused.err
        assert "--anyway" in refused.err
        refused = await mesh("inbox", "claim", question.id, *at, MESH_ADMIN_TOKEN=keys[other])
        assert refused.status == 1 and f"{owner} is looking" in refused.err
        shown = await mesh("inbox", question.id, *at, MESH_ADMIN_TOKEN=keys[owner])
        assert f"claimed     {owner} is looking, until " in shown.out
        renewed = await mesh("inbox", "claim", question.id, *at, MESH_ADMIN_TOKEN=keys[owner])
        assert renewed.out.startswith("claimed until "), renewed
        released = await mesh("inbox", "release", question.id, *at, MESH_ADMIN_TOKEN=keys[owner])
        assert released.out == "released: Which?\n"
        await mesh("inbox", "claim", question.id, *at, MESH_ADMIN_TOKEN=keys[owner])
        answer = ("answer", question.id, "This one.", "--anyway")
        answered = await mesh(*answer, *at, MESH_ADMIN_TOKEN=keys[other])
        assert answered.status == 0, answered
        async with Client(running.url, TOKEN) as client:
            assert (await client.outcome(task_id)).text == "This one."


async def test_of_two_claims_at_two_fronts_on_postgresql_one_wins(
    tmp_path: Path, postgres_url: Address
) -> None:
    settings = {**ADMINS, "database": postgres_url}
    async with (
        http_mesh(tmp_path / "one", Releaser, **settings) as one,
        http_mesh(tmp_path / "two", Releaser, **settings) as two,
    ):
        async with Client(one.url, TOKEN) as client:
            await waits(client, (await client.submit("releaser", "release")).task_id)
            [question] = await client.inbox()
        keys = [bearer(await key_for(one, name)) for name in NAMES]
        path = f"/inbox/{question.id}/claim"
        claims = [api.call("POST", path, headers=key) for api, key in zip((one, two), keys, strict=True)]
        statuses = [status for status, _ in await asyncio.gather(*claims)]
        assert sorted(statuses) == [200, 409]
        listed = [(await api.call("GET", "/inbox", headers=ADMIN))[1]["items"] for api in (one, two)]
        owner = NAMES[statuses.index(200)]
        assert [item["claimed_by"] for items in listed for item in items] == [owner, owner]
