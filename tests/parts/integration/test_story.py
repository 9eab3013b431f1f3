"""`mesh story` and `GET /story`: what happened in a night, each line with the command for its rows."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from shlex import split

from meshwright import Agent, Capability, Run
from meshwright.client import Client
from meshwright.core.model_events import DeploymentLeftAlone, DeploymentRecovered
from meshwright.engine.events.filter import EventFilter
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMIN, ADMINS, Releaser
from tests.support.postgres import Address
from tests.support.running_mesh import mesh, mesh_up


class Sour(Agent):
    """Fails."""

    agent_id = "sour"
    capabilities = (Capability("sourness"),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise ValueError("not today") if run.task.text == "value" else LookupError("none")


async def has_events(api: Api, event_type: str, count: int) -> None:
    async with (
        asyncio.timeout(60),
        aclosing(api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0))) as events,
    ):
        for _ in range(count):
            await anext(events)


async def live_a_night(api: Api) -> None:
    """One model is away twice and comes back, one stays away; three tasks fail, a question is answered."""
    for name in ("east", "east", "west"):
        fields = {"seconds": 30.0, "error": None, "status": None, "reason": "its secret reason"}
        api.mesh.tell("deployment.cooled_down", DeploymentLeftAlone(deployment=name, **fields))
    api.mesh.tell(DeploymentRecovered(deployment="east", seconds=30.0))
    for text in ("value", "value", "lookup"):
        await api.client.outcome(await api.submit(agent_id="sour", payload={"text": text}))
    task_id = await api.submit(agent_id="releaser", payload={"text": "release"})
    await has_events(api, "task.waiting", 1)
    [item] = (await api.call("GET", "/inbox", headers=ADMIN))[1]["items"]
    answer = {"key": item["wait_id"], "value": {"approve": False, "reason": "not at night"}}
    status, _ = await api.call("POST", f"/tasks/{task_id}/answer", json=answer, headers=ADMIN)
    assert status == 202
    await api.client.outcome(task_id)
    await has_events(api, "deployment.recovered", 1)


async def test_a_story_says_what_happened_and_each_line_lists_its_rows(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Sour, Releaser) as api:
        await live_a_night(api)
        story = await api.get("/story", since="1h")
        texts = {line["text"]: line for line in story["lines"]}
        assert {text: line["count"] for text, line in texts.items()} == {
            "Model east was away, and is back": 2,
            "Model west is away": 1,
            "2 tasks of sour failed: ValueError": 2,
            "1 task of sour failed: LookupError": 1,
            "1 task waited for a person": 1,
            "anonymous denied 1 question": 1,
        }
        assert "secret" not in str(story) and story["cut"] == [] and story["calls"] == 0
        firsts = [line["first"] for line in story["lines"]]
        assert firsts == sorted(firsts) and all(line["first"] <= line["last"] for line in story["lines"])
        told = await mesh("story", "--since", "1h", "--url", api.url)
        assert told.status == 0 and "2 tasks of sour failed: ValueError" in told.out, told
        assert told.out.rstrip().endswith("no calls of models"), told
        command = split(texts["2 tasks of sour failed: ValueError"]["command"])
        rows = await mesh(*command[1:], "--json", "--url", api.url)
        assert rows.out.count('"task_id"') == 2, rows
        command = split(texts["Model west is away"]["command"])
        rows = await mesh(*command[1:], "--url", api.url)
        assert "west" in rows.out, rows
        tomorrow = (datetime.fromisoformat(story["until"]) + timedelta(days=1)).isoformat()
        assert (await api.get("/story", since=tomorrow))["lines"] == []
        status, problem = await api.call("GET", "/story", params={"since": "yesterday"})
        assert status == 422 and problem["field"] == "since"


async def test_a_story_is_told_of_a_tenant_on_postgresql(tmp_path: Path, postgres_url: Address) -> None:
    async with http_mesh(tmp_path, Sour, database=postgres_url, **ADMINS) as api:
        keys = {}
        for tenant in ("acme", "blue"):
            request = {"name": tenant, "tenant_id": tenant, "roles": ["submitter", "viewer"]}
            keys[tenant] = (await api.call("POST", "/keys", json=request, headers=ADMIN))[1]["key"]
        async with Client(api.url, keys["acme"]) as client:
            task = await client.submit("sour", "value")
            await client.outcome(task.task_id)
        stories = {}
        for tenant, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            status, story = await api.call("GET", "/story", headers=headers)
            assert status == 200, story
            stories[tenant] = [line["text"] for line in story["lines"]]
    assert stories == {"acme": ["1 task of sour failed: ValueError"], "blue": []}


async def test_a_time_of_day_is_the_last_one_here(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Releaser) as api:
        told = await mesh("story", "--since", "22:00", "--json", "--url", api.url)
        assert told.status == 0, told
        wrong = await mesh("story", "--since", "25:00", "--url", api.url)
        assert wrong.status == 2 and "is not a time" in wrong.err
        bare = await mesh("story", "--since", "22:00", "--url", api.url)
        assert "22:00" in bare.out.splitlines()[0] and "nothing failed, went away" in bare.out, bare


async def test_a_story_says_when_the_mesh_was_killed_and_when_it_was_stopped(tmp_path: Path) -> None:
    async with mesh_up(tmp_path) as running:
        begun = (await running.get("/events")).body["items"]
        await running.submit("Hello")
        await running.kill()
    async with mesh_up(tmp_path) as running:
        story = (await running.get("/story", since="1h")).body
        [killed] = [line for line in story["lines"] if line["kind"] == "killed"]
        events = (await running.get("/events", event_type="mesh.started")).body["items"]
        assert (len(events), killed["count"], killed["last"]) == (2, 1, events[1]["time"])
        assert begun[-1]["time"] <= killed["first"] < killed["last"]
        assert killed["text"] == "The mesh was killed, last seen at the first time here, and is back"
        assert await running.stop() == 0
    told = await mesh("story", "--data", str(tmp_path))
    assert "The mesh was stopped  " in told.out and "The mesh was killed, last seen" in told.out, told
    async with mesh_up(tmp_path) as running:
        story = (await running.get("/story", since="1h")).body
        kinds = {line["kind"]: line["text"] for line in story["lines"] if line["kind"] != "broke off"}
        assert kinds["stopped"] == "The mesh was stopped, and is back"
        rows = await mesh(*split(story["lines"][0]["command"])[1:], "--url", running.url)
        assert rows.status == 0, rows
