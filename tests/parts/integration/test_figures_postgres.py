"""Figures of several workers on PostgreSQL, and the view that an autoscaler reads."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from meshwright.engine.events.filter import EventFilter
from meshwright.parts.k8s.objects import asking_view
from tests.support.http_mesh import Api, http_mesh
from tests.support.postgres import Address, Cluster
from tests.support.tenants import Asker

BEAT = 5.0
_COLUMNS = (
    "SELECT column_name::text, data_type::text FROM information_schema.columns "
    "WHERE table_name = 'meshwright_scale' AND table_schema = current_schema() ORDER BY ordinal_position"
)


async def until(api: Api, event_type: str, count: int) -> None:
    """Wait for so many events of a type since the mesh began."""
    async for _ in api.mesh.log.tail(EventFilter(event_type=event_type, after_seq=0)):
        count -= 1
        if not count:
            return


async def workers(api: Api, count: int) -> list[dict[str, Any]]:
    """The workers, once a front has heard of so many that hold their lease."""
    async with asyncio.timeout(240):
        while True:
            found = (await api.call("GET", "/figures"))[1].get("workers", [])  # none while the store is away
            if sum(worker["lease"] == "held" for worker in found) == count:
                return found
            await asyncio.sleep(0.05)


async def test_fronts_see_each_others_slots_and_leases(postgres_url: Address, tmp_path: Path) -> None:
    settings = {"database": postgres_url, "presence": {"heartbeat_seconds": BEAT}}
    async with http_mesh(tmp_path / "one", **settings) as one:
        async with http_mesh(tmp_path / "two", **settings) as two:
            for api in (one, two):
                found = await workers(api, 2)
                assert [worker["store"] for worker in found] == ["postgres", "postgres"]
                assert found[0]["incarnation"] == api.mesh.runtime.incarnation
            agents = {agent["agent_id"]: agent["slots"] for agent in (await one.get("/figures"))["agents"]}
            assert agents == {"echo": 16, "gate": 16}
            last = (await workers(one, 2))[1]
        while len(found := (await one.get("/figures"))["workers"]) > 1:
            last = found[1]
        seconds = datetime.fromisoformat(found[0]["seen_at"]) - datetime.fromisoformat(last["seen_at"])
        assert seconds < 3 * timedelta(seconds=BEAT), "it is listed as one that has lost its lease"
        assert (await one.get("/figures"))["agents"][0]["slots"] == 8


async def test_a_worker_that_has_a_new_lease_is_listed_once(own_postgres: Cluster, tmp_path: Path) -> None:
    settings = {"database": own_postgres.url(), "presence": {"heartbeat_seconds": BEAT}}
    async with http_mesh(tmp_path / "one", **settings) as one, http_mesh(tmp_path / "two", **settings) as two:
        former = (await workers(one, 2))[1]["incarnation"]
        own_postgres.query(f"DELETE FROM workers WHERE incarnation = '{former}'")  # as another does
        while two.mesh.runtime.incarnation == former:
            await asyncio.sleep(0.05)
        found = await workers(one, 2)
        assert [worker["lease"] for worker in found] == ["held", "held"]


async def test_the_view_counts_what_the_route_counts(postgres_url: Address, tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Asker, database=postgres_url) as api:
        for _ in range(9):
            await api.submit(agent_id="gate")
        await api.submit(agent_id="asker")
        await until(api, "task.started", 9)
        await until(api, "task.waiting", 1)
        assert (await api.get("/scale/gate"))["value"] == 9
        with psycopg.connect(postgres_url) as connection:
            rows = connection.execute("SELECT app, waiting, running, value FROM meshwright_scale").fetchall()
            columns = connection.execute(_COLUMNS).fetchall()
            scaled = connection.execute(asking_view(8)["metadata"]["query"]).fetchall()
        assert sorted(rows) == [("gate", 1, 8, 9), ("mesh", 1, 8, 9)]
        assert columns == [("app", "text"), *((name, "bigint") for name in ("waiting", "running", "value"))]
        assert scaled == [(9,)]
        assert (await api.get("/figures"))["disk"]["store_bytes"] > 100_000, "that of its tables"
        metrics = await (await api.session.get("/metrics")).text()
        assert 'meshwright_workers{store="postgres",lease="held"} 1' in metrics
        await api.finished(agent_id="echo", payload={"text": "x"})
        await api.finished(agent_id="echo", payload={"text": "x", "fail": True})
        [trend] = (await api.get("/figures/trends"))["agents"]
        ends = [sum(hour[end] for hour in trend["hours"]) for end in ("succeeded", "failed")]
        assert (trend["agent_id"], ends) == ("echo", [1, 1])
        flows = (await api.get("/figures/flows"))["items"]
        echo = [(flow["count"], flow["failed"]) for flow in flows if flow["target"] == "echo"]
        assert echo == [(2, 1)]
