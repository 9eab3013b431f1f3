"""Schedules submit their tasks at due times, by what `/schedules` says, on a clock that the test moves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, Client, MeshError, Run
from meshwright.core.access import Role
from meshwright.core.errors import NotFound
from meshwright.core.messages import Caller
from meshwright.engine.work import Worker
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.registry import Registry
from meshwright.parts.schedules.operations import Schedules
from meshwright.testing import Faults, ManualClock, ScriptedModel, mesh_for
from tests.support.observer import PATIENCE_SECONDS, Watch
from tests.support.settings import load_settings

EVERY_MINUTE = {"every_seconds": 60, "task": {"agent_id": "clerk", "payload": {"text": "Count."}}}
DAY = 86_400


class Clerk(Agent):
    """Works until the test lets it go."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    prompt_text = "Work."
    gate: ClassVar[asyncio.Event]

    async def run(self, run: Run) -> str:
        await type(self).gate.wait()
        return "done"


class Office:
    """A mesh with a clerk, its clock, and what happens there."""

    def __init__(self, mesh: Mesh, clock: ManualClock) -> None:
        self.mesh = mesh
        self.clock = clock
        self.watch = Watch()
        self.client = Client.local(mesh)
        mesh.runtime.listen("#", self.watch.take)

    async def put(self, name: str = "a", **fields: Any) -> dict[str, Any]:
        return await self.client.call("PUT", f"/schedules/{name}", body={**EVERY_MINUTE, **fields})

    async def get(self, name: str = "a") -> dict[str, Any]:
        return await self.client.call("GET", f"/schedules/{name}")

    async def advance(self, seconds: float, *, until: dict[str, int]) -> None:
        """Move the clock, and wait until there were so many events of each type."""
        await self.clock.advance(seconds)
        await self.watch.until(
            lambda: all(len(self.watch.of(name)) >= count for name, count in until.items())
        )
        for name, count in until.items():
            assert len(self.watch.of(name)) == count, name

    async def history(self, name: str = "a") -> list[tuple[str, str]]:
        """When each run was due, as minutes and seconds, and what came of it; the oldest first."""
        runs = (await self.get(name))["history"][::-1]
        return [(f"{datetime.fromisoformat(run['due_at']):%d %H:%M}", run["status"]) for run in runs]

    def accepted(self) -> Counter[str]:
        """How many tasks were accepted for each due time."""
        return Counter(str(event.idempotency_key) for event in self.watch.of("task.accepted"))


@pytest.fixture
def gate() -> asyncio.Event:
    Clerk.gate = asyncio.Event()
    return Clerk.gate


@asynccontextmanager
async def office(clock: ManualClock, folder: Path | None = None, **settings: Any) -> AsyncIterator[Office]:
    """In memory, or on the data of a folder."""
    if folder is None:
        faults = settings.pop("faults", None)
        async with mesh_for(Clerk, clock=clock, faults=faults, **settings) as under_test:
            yield Office(under_test.mesh, clock)
        return
    mesh = build_mesh(
        load_settings(folder, data_dir=folder / "data", **settings),
        agents=[Clerk],
        model=ScriptedModel(),
        clock=clock,
    )
    opened = Office(mesh, clock)
    async with mesh:
        yield opened


@pytest.fixture
async def here(gate: asyncio.Event) -> AsyncIterator[Office]:
    async with office(ManualClock()) as opened:
        yield opened


async def test_each_due_time_is_one_task_requested_by_its_schedule(here: Office, gate: asyncio.Event) -> None:
    gate.set()
    made = await here.put()
    assert (made["status"], made["next_due_at"]) == ("active", "2026-01-01T00:01:00Z")
    for count in (1, 2, 3):
        await here.advance(60, until={"schedule.started": count, "task.succeeded": count})
    assert await here.history() == [("01 00:01", "started"), ("01 00:02", "started"), ("01 00:03", "started")]
    page = await here.get()
    assert [run["outcome"] for run in page["history"]] == ["succeeded"] * 3
    [listed] = (await here.client.call("GET", "/schedules"))["items"]
    assert (listed["runs"], listed["next_due_at"]) == (3, "2026-01-01T00:04:00Z")
    assert listed["last_run"] == page["last_run"] == page["history"][0]
    task = await here.client.task(page["history"][0]["task_id"])
    assert (task.requested_by, task.payload) == ("schedule:a", {"text": "Count."})
    assert page["created_by"] == listed["created_by"] == "anonymous"
    assert "Count." not in str([event.payload for event in here.watch.of("schedule.started")])


@pytest.mark.parametrize(
    ("overlap", "started", "others"),
    [
        ("allow", 3, {}),
        ("skip", 1, {"schedule.skipped": 2}),
        ("queue", 1, {"schedule.queued": 2}),
        ("cancel_other", 3, {"task.cancelled": 2}),
    ],
)
async def test_a_run_that_overlaps_the_one_before(
    here: Office, gate: asyncio.Event, overlap: str, started: int, others: dict[str, int]
) -> None:
    await here.put(overlap=overlap)
    await here.advance(60, until={"schedule.started": 1, "task.started": 1})
    await here.clock.advance(60)
    await here.advance(60, until={"schedule.started": started, **others})
    assert (await here.get())["pending"] == others.get("schedule.queued", 0)
    gate.set()
    ends = 3 if overlap == "queue" else started
    await here.watch.until(
        lambda: len(here.watch.of("task.succeeded")) == ends - others.get("task.cancelled", 0)
    )
    await here.advance(60, until={"schedule.started": ends + 1})
    assert set(here.accepted().values()) == {1}


@pytest.mark.parametrize(
    ("catch_up", "made_up", "missed"),
    [("none", [], 72), ("last", ["03 23:00"], 71), ("all", ["03 22:00", "03 23:00"], 70)],
)
async def test_a_mesh_that_was_down_for_three_days_makes_up_as_it_is_told(
    tmp_path: Path, gate: asyncio.Event, catch_up: str, made_up: list[str], missed: int
) -> None:
    gate.set()
    clock = ManualClock()
    async with office(clock, tmp_path) as before:
        await before.put(
            every_seconds=None, cron="0 * * * *", catch_up=catch_up, max_catch_up=2, overlap="allow"
        )
        await before.advance(60, until={"schedule.started": 0})
    await clock.advance(3 * DAY - 120)
    async with office(clock, tmp_path) as after:
        await after.watch.until(lambda: bool(after.watch.of("schedule.missed")))
        await after.watch.until(lambda: len(after.watch.of("schedule.started")) == len(made_up))
        told = [event.payload["run"]["count"] for event in after.watch.of("schedule.missed")]
        await after.advance(60, until={"schedule.started": len(made_up) + 1})
        assert [due for due, status in await after.history() if status == "started"] == [*made_up, "04 00:00"]
        assert 1 <= sum(told) <= missed  # at least so many
    async with office(clock, tmp_path) as again:  # nothing is made up twice
        await again.advance(3600, until={"schedule.started": 1})


async def test_a_run_that_was_decided_before_a_stop_is_submitted_once_after_it(
    tmp_path: Path, gate: asyncio.Event
) -> None:
    clock = ManualClock()
    async with office(clock, tmp_path) as before:
        await before.put(overlap="queue")
        await before.advance(60, until={"schedule.started": 1, "task.started": 1})
        await before.advance(60, until={"schedule.queued": 1})
        await before.mesh.get(Worker).drain(0)
    gate.set()
    async with office(clock, tmp_path) as after:
        await after.watch.until(lambda: len(after.watch.of("task.succeeded")) == 2)
        assert await after.history() == [("01 00:01", "started"), ("01 00:02", "started")]


async def test_pause_keeps_the_position_and_run_now_does_not_shift_it(
    here: Office, gate: asyncio.Event
) -> None:
    gate.set()
    await here.put()
    await here.clock.advance(30)
    run = await here.client.call("POST", "/schedules/a/run")
    assert (run["status"], run["by"]) == ("started", "anonymous")
    await here.watch.until(lambda: bool(here.watch.of("task.succeeded")))  # else the next run is skipped
    await here.advance(30, until={"schedule.started": 2, "task.succeeded": 2})
    paused = await here.client.call("POST", "/schedules/a/pause")
    assert (paused["status"], paused["next_due_at"]) == ("paused", None)
    await here.advance(150, until={"schedule.started": 2})
    due = (await here.client.call("GET", "/schedules/a/next", count=2))["items"]
    assert [time["due_at"] for time in due] == ["2026-01-01T00:04:00Z", "2026-01-01T00:05:00Z"]
    await here.client.call("POST", "/schedules/a/resume")
    await here.advance(0, until={"schedule.started": 3, "task.succeeded": 3})  # the last of those missed
    [missed] = here.watch.of("schedule.missed")
    assert missed.payload["run"]["count"] == 1
    await here.advance(30, until={"schedule.started": 4})
    page = await here.get()
    assert (page["runs"], page["tasks"], page["next_due_at"]) == (3, 4, "2026-01-01T00:05:00Z")


async def test_it_ends_after_its_last_run(here: Office, gate: asyncio.Event) -> None:
    gate.set()
    await here.put("a", max_runs=2)
    await here.put("b", until="2026-01-01T00:02:30", zone="UTC")
    await here.put("c", every_seconds=None, at="2026-01-01T01:01", zone="Europe/Berlin")
    for count in (3, 5, 5):
        await here.advance(60, until={"schedule.started": count, "task.succeeded": count})
    for name, runs in {"a": 2, "b": 2, "c": 1}.items():
        page = await here.get(name)
        assert (page["status"], page["runs"], page["next_due_at"]) == ("ended", runs, None)
        assert (await here.client.call("GET", f"/schedules/{name}/next"))["items"] == []


async def test_a_refused_task_is_told_and_the_schedule_goes_on(gate: asyncio.Event) -> None:
    async with office(ManualClock(), orchestration={"max_open_tasks": 1}) as here:
        await here.put("a", overlap="allow")
        await here.advance(60, until={"schedule.started": 1, "task.started": 1})
        await here.advance(60, until={"schedule.failed": 1})
        [failed] = here.watch.of("schedule.failed")
        assert failed.payload["run"]["reason"].startswith("Overloaded: The mesh has 1 open tasks")
        run = await here.client.call("POST", "/schedules/a/run")
        assert (run["status"], run["outcome"]) == ("failed", None)
        gate.set()
        await here.watch.until(lambda: bool(here.watch.of("task.succeeded")))
        await here.advance(60, until={"schedule.started": 2})


async def test_an_agent_that_is_away_gets_the_task_when_it_is_back_soon(
    here: Office, gate: asyncio.Event
) -> None:
    gate.set()
    await here.put("a", every_seconds=61, max_runs=1)
    await here.put("b", every_seconds=61, max_runs=1, task={"agent_id": "clerk", "capability": "painting"})
    await here.clock.advance(60.5)
    here.mesh.get(Registry).set_problem("clerk", "its printer is off")  # until presence looks, each 5 seconds
    await here.advance(0.5, until={"schedule.started": 0, "schedule.failed": 0})
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (here.watch.of("schedule.failed") and here.watch.of("schedule.started")):
            await here.clock.advance(0.5)
            await asyncio.sleep(0.02)  # what it tries takes real time too
    failed = here.watch.of("schedule.failed")[0]
    assert failed.payload["run"]["reason"].startswith(
        "NoAgentAvailable: 'clerk' has no capability 'painting'"
    )


async def test_a_clock_that_steps_back_repeats_no_run(here: Office, gate: asyncio.Event) -> None:
    gate.set()
    await here.put()
    for count in (1, 2):
        await here.advance(60, until={"schedule.started": count, "task.succeeded": count})
    here.clock._now -= timedelta(seconds=90)  # as NTP may
    await here.put("b")
    await here.advance(90, until={"schedule.started": 3, "task.succeeded": 3})  # that of b
    await here.advance(60, until={"schedule.started": 5})
    assert [due for due, _ in await here.history()] == ["01 00:01", "01 00:02", "01 00:03"]


async def test_a_change_of_the_task_keeps_the_due_times_and_one_of_the_time_begins_again(
    here: Office,
) -> None:
    await here.put()
    await here.clock.advance(30)
    changed = await here.put(task={"agent_id": "clerk", "payload": {"text": "Other."}})
    assert changed["next_due_at"] == "2026-01-01T00:01:00Z"
    assert (await here.put(every_seconds=90))["next_due_at"] == "2026-01-01T00:02:00Z"
    await here.client.call("DELETE", "/schedules/a")
    assert (await here.client.call("GET", "/schedules"))["items"] == []
    with pytest.raises(MeshError, match="There is no schedule 'a'"):
        await here.get()
    await here.advance(600, until={"schedule.started": 0})


async def test_schedules_of_the_file_are_those_of_the_file(tmp_path: Path, gate: asyncio.Event) -> None:
    gate.set()
    clock, job = ManualClock(), {"id": "a", **EVERY_MINUTE}
    async with office(clock, tmp_path, schedules={"jobs": [job]}) as first:
        with pytest.raises(MeshError, match=r"declared in mesh\.toml"):
            await first.put()
        with pytest.raises(MeshError, match=r"declared in mesh\.toml"):
            await first.client.call("DELETE", "/schedules/a")
        await first.client.call("POST", "/schedules/a/pause")
    async with office(clock, tmp_path, schedules={"jobs": [{**job, "every_seconds": 30}]}) as second:
        page = await second.get()
        assert (page["status"], page["every_seconds"], page["declared"]) == ("paused", 30, True)
    async with office(clock, tmp_path) as third:
        assert (await third.client.call("GET", "/schedules"))["items"] == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "0 7 * * *"}, "cron"),
        ({"every_seconds": None, "cron": "0 0 30 2 *"}, "cron"),
        ({"every_seconds": None, "cron": "0 7 * * *", "zone": "Europe/Belin"}, "zone"),
        ({"every_seconds": 0.5}, "every_seconds"),
        ({"every_seconds": None, "at": "tomorrow"}, "at"),
        ({"task": {"agent_id": "ghost"}}, "task.agent_id"),
        ({"task": {"capability": "painting"}}, "task.capability"),
        ({"task": {}}, "task.capability"),
        ({"task": {"agent_id": "clerk", "task_id": "t"}}, "task.task_id"),
        ({"task": {"agent_id": "clerk", "payload": {"text": "x" * 262_144}}}, "task.payload"),
        ({"task": {"agent_id": "clerk", "payload": {"text": 7}}}, "task.payload.text"),
        ({"overlap": "sometimes"}, "overlap"),
        ({"max_catch_up": 101}, "max_catch_up"),
        ({"tenant_id": "acme"}, "tenant_id"),
    ],
)
async def test_bad_input_names_its_field(here: Office, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(MeshError) as refused:
        await here.put(**fields)
    assert refused.value.field == field
    assert not here.watch.of("schedule.created")


async def test_a_tenant_has_so_many_schedules_and_no_more(gate: asyncio.Event) -> None:
    async with office(ManualClock(), schedules={"max_per_tenant": 2}) as here:
        made = await asyncio.gather(*(here.put(name) for name in "abcd"), return_exceptions=True)
        assert sum(isinstance(one, MeshError) for one in made) == 2
        await here.put(made[0]["id"] if isinstance(made[0], dict) else "b", every_seconds=90)
        with pytest.raises(MeshError, match="already"):
            await here.client.call("POST", "/schedules", body={"id": "a", **EVERY_MINUTE})


@pytest.mark.parametrize("overlap", ["allow", "queue"])
async def test_at_most_one_task_of_each_due_time_through_faults(
    gate: asyncio.Event, seed: int, overlap: str
) -> None:
    gate.set()
    faults = Faults(seed, duplicate=0.3, delay=0.3, reorder=0.3, conflict=0.05, restart=0.05, max_restarts=40)
    async with office(ManualClock(), faults=faults) as here:
        await here.put(overlap=overlap, catch_up="all")
        for count in range(1, 31):
            await here.clock.advance(60)
            await here.watch.until(lambda count=count: len(here.watch.of("schedule.started")) >= count)
        await here.watch.until(lambda: len(here.watch.of("task.succeeded")) == 30)
    due = [f"schedule:a:2026-01-01T00:{minute:02}:00+00:00" for minute in range(1, 31)]
    assert here.accepted() == Counter(due)


async def test_other_tenants_see_none_of_it_and_a_viewer_no_contents(here: Office) -> None:
    await here.put()
    schedules = here.mesh.get(Schedules)
    others = Caller(tenant_id="acme", requested_by="spy", roles=frozenset({Role.OPERATOR}))
    assert (await schedules.list_schedules(others)).items == ()
    for look in (schedules.show_schedule, schedules.preview_schedule):
        with pytest.raises(NotFound):
            await look("a", others)
    changes = (schedules.pause_schedule, schedules.resume_schedule, schedules.run_schedule)
    for change in (*changes, schedules.delete_schedule):
        with pytest.raises(NotFound):
            await change("a", others)
    operator = Caller(requested_by="ada", roles=frozenset({Role.OPERATOR}))
    viewed = await schedules.show_schedule("a", operator)
    assert viewed.task is None and "Count." not in viewed.model_dump_json()
    for change in (schedules.pause_schedule, schedules.resume_schedule):
        assert (await change("a", operator)).task is None
    assert "Count." not in (await schedules.list_schedules(operator)).model_dump_json()


async def test_each_change_is_in_the_audit_trail_before_it_is_made(here: Office, gate: asyncio.Event) -> None:
    gate.set()
    await here.put()
    for what in ("pause", "resume", "run"):
        await here.client.call("POST", f"/schedules/a/{what}")
    await here.client.call("DELETE", "/schedules/a")
    audited = [event for event in here.watch.of("audit.recorded") if "schedules/a" in str(event.payload)]
    assert [event.payload["action"] for event in audited] == [
        *("schedule.changed", "schedule.paused", "schedule.resumed", "schedule.run", "schedule.deleted")
    ]
    assert "Count." not in str([event.payload for event in audited])
    order = [event.event_type for event in here.watch.events.values()]
    assert order.index("audit.recorded") < order.index("schedule.created")
