"""Reminders of questions on each store: each is said once, through a kill -9 and at two fronts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from meshwright.client import Client
from tests.journeys.acceptance.test_claims import AGENT, UPS, bearer, key_for, waits
from tests.support.http_mesh import http_mesh
from tests.support.page import ADMIN, ADMINS, TOKEN, Releaser
from tests.support.postgres import Address
from tests.support.running_mesh import mesh, mesh_up, run

REMINDED = "question.reminded"


async def reminders(client: Client, count: int) -> list[int]:
    """Wait for so many reminders; returns their numbers."""
    async with asyncio.timeout(240), aclosing(client.stream(after_seq=0, event_type=REMINDED)) as events:
        return [(await anext(events)).payload["reminders"] for _ in range(count)]


@pytest.mark.parametrize("arguments", UPS)
async def test_reminders_outlive_kill_9_and_the_next_person_answers_at_the_shell(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors/clerk.py").write_text(AGENT)
    environment = {
        "MESH_AGENTS__DIR": str(tmp_path / "actors"),
        "MESH_MODELS__ADAPTER": "offline",
        "MESH_ADMIN_TOKEN": TOKEN,
        "MESH_PEOPLE__REMIND_SECONDS": "2",
        "MESH_PEOPLE__THEN": '["bob"]',
    }
    async with mesh_up(tmp_path / "data", *arguments, **environment) as running:
        key = await key_for(running, "bob")
        async with Client(running.url, TOKEN) as client:
            task_id = (await client.submit("clerk", "Ask.")).task_id
            await reminders(client, 1)
        await running.kill()
    async with mesh_up(tmp_path / "data", *arguments, **environment) as running:
        async with Client(running.url, TOKEN) as client:
            assert await reminders(client, 2) == [1, 2]
        at = ("--url", running.url)
        listed = await mesh("inbox", *at, MESH_ADMIN_TOKEN=key)
        assert "(reminded, and bob asked as well) Which?" in listed.out, listed
        [item] = (await running.call("GET", "/inbox", headers=bearer(key))).body["items"]
        assert item["escalated_to"] == ["bob"] and item["since"] < item["reminded_at"]
        shown = await mesh("inbox", item["id"], *at, MESH_ADMIN_TOKEN=key)
        assert "reminded    " in shown.out and ", and bob asked as well" in shown.out, shown
        answered = await mesh("answer", item["id"], "This one.", *at, MESH_ADMIN_TOKEN=key)
        assert answered.status == 0, answered
        async with Client(running.url, TOKEN) as client:
            assert (await client.outcome(task_id)).text == "This one."
            assert [event.payload["reminders"] for event in await client.events(event_type=REMINDED)] == [
                1,
                2,
            ]


async def test_two_fronts_on_postgresql_remind_once(tmp_path: Path, postgres_url: Address) -> None:
    settings = {**ADMINS, "database": postgres_url, "people": {"remind_seconds": 1, "then": ["*"]}}
    async with (
        http_mesh(tmp_path / "one", Releaser, **settings) as one,
        http_mesh(tmp_path / "two", Releaser, **settings) as two,
    ):
        async with Client(one.url, TOKEN) as client, Client(two.url, TOKEN) as other:
            tasks = [await client.submit("releaser", "release") for _ in range(3)]
            for task in tasks:
                await waits(client, task.task_id)
            numbers = await reminders(other, 6)
            assert sorted(numbers) == [1, 1, 1, 2, 2, 2]
            events = await client.events(event_type=REMINDED, limit=50)
            assert len(events) == 6 == len({(event.task_id, event.payload["reminders"]) for event in events})
        [*items] = (await two.call("GET", "/inbox", headers=ADMIN))[1]["items"]
        assert [item["escalated_to"] for item in items] == [["*"]] * 3


def test_check_says_what_is_wrong_with_reminders(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    settings = tmp_path / "mesh.toml"
    texts = {
        '[people]\nremind_seconds = 3600\nthen = ["bob"]': "names 'bob' in then, whom the mesh does not know",
        '[people]\nthen = ["admin"]': "nobody is reminded there before",
        "[people]\nremind_seconds = 864000": "is reminded of after 10 d, and expires before, after 7 d",
        '[people]\nremind_seconds = 400000\nthen = ["admin"]': "goes to then after 9 d, and expires before",
        "[[approvals.rules]]\nremind_seconds = 90000\nexpires_days = 1": "[[approvals.rules]] 1: a question",
    }
    for text, problem in texts.items():
        settings.write_text(text)
        checked = run("check", cwd=tmp_path)
        assert checked.returncode == 1 and problem in " ".join(checked.stdout.split()), checked
    settings.write_text('[people]\nremind_seconds = 3600\nthen = ["bob"]')
    assert run("keys", "create", "--name", "bob", "--yes", cwd=tmp_path).returncode == 0
    checked = run("check", cwd=tmp_path)
    assert "[people] after 60 min then bob" in checked.stdout, checked
