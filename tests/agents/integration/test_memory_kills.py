"""Memories of a mesh that is killed while people change them: each answered change holds, none comes halfway.

A course changes two memories of one subject, step by step. Whenever the mesh is back, both are as after the
last step that was answered, or after the one that was under way; and deleted text is in no file.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.journeys.integration.test_simulated_kills_dapr import UP as ON_DAPR
from tests.journeys.integration.test_simulated_kills_dapr import worker_of, works
from tests.run import DAPR
from tests.support.running_mesh import RunningMesh, mesh_up
from tests.support.running_stack import gone, kill

COURSES, KILLS = 6, 4
_SOAK = pytest.mark.soak("a front on Dapr keeps memories by the same code, and takes long to start")


class Step(NamedTuple):
    """A change, and the status of both memories once it is made; None for one that is deleted."""

    method: str
    path: str
    body: dict[str, Any] | None
    after: tuple[str | None, str | None]


class Course:
    """The changes of two memories, and how many of them were answered."""

    def __init__(self, number: int, one: str, other: str) -> None:
        self.ids = (one, other)
        self.secret = f"quartz{number}-{number * 7919}"
        self.subject = f"subject {number}"
        first, second = f"/memories/{one}", f"/memories/{other}"
        text = {"text": f"The word is {self.secret}.", "subject": self.subject}
        ends = [Step("DELETE", second, None, ("active", None)), Step("DELETE", first, None, (None, None))]
        if number % 2:
            ends = [Step("DELETE", f"/memories?subject=subject%20{number}", None, (None, None))]
        self.steps = [
            Step("PATCH", first, {"subject": self.subject}, ("active", "active")),
            Step("PATCH", second, text, ("superseded", "active")),
            Step("POST", f"{first}/promote", None, ("active", "active")),
            Step("POST", f"{first}/undo", None, ("superseded", "active")),
            Step("POST", f"{second}/forget", None, ("active", "forgotten")),
            Step("POST", f"{second}/undo", None, ("superseded", "active")),
            *ends,
        ]
        self.made = 0

    @property
    def has_ended(self) -> bool:
        return self.made == len(self.steps)

    async def go(self, running: RunningMesh, answered: asyncio.Queue[None]) -> None:
        """Make the steps that are left, until the mesh is gone."""
        while not self.has_ended:
            step = self.steps[self.made]
            try:
                async with running.session.request(
                    step.method, running.url + step.path, json=step.body
                ) as response:
                    assert response.status in (200, 204), (step, await response.text())
                self.made += 1
                answered.put_nowait(None)
                statuses = {item["memory_id"]: item["status"] for item in await listed(running)}
            except (aiohttp.ClientError, OSError):
                return
            assert tuple(statuses.get(memory_id) for memory_id in self.ids) == step.after, step

    def check(self, statuses: dict[str, str]) -> None:
        """See that both are as the steps say, and learn whether the last one was made."""
        found = tuple(statuses.get(memory_id) for memory_id in self.ids)
        before = self.steps[self.made - 1].after if self.made else ("active", "active")
        if not self.has_ended and found == self.steps[self.made].after:
            self.made += 1 if found != before else 0
        else:
            assert found == before, (self.made, found)


async def courses_of(running: RunningMesh) -> list[Course]:
    """Have an agent remember two things for each course."""
    for number in range(2 * COURSES):
        said = f"Remember that the lamp {number} of room {number * 31} is lit."
        assert (await running.client.ask("researcher-agent", said)).status == "succeeded"
    ids = [item["memory_id"] for item in await listed(running)]
    assert len(ids) == 2 * COURSES
    return [Course(number, *ids[2 * number : 2 * number + 2]) for number in range(COURSES)]


async def listed(running: RunningMesh) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await running.get("/memories", status="all", limit="500")).body["items"]
    return items


async def check(running: RunningMesh, courses: list[Course]) -> None:
    items = await listed(running)
    for course in courses:
        course.check({item["memory_id"]: item["status"] for item in items})
        if course.has_ended:
            assert course.secret not in str(items)


async def go(running: RunningMesh, courses: list[Course], steps: int) -> list[asyncio.Task[None]]:
    """Make changes side by side, until so many are answered; those under way go on."""
    answered: asyncio.Queue[None] = asyncio.Queue()
    under_way = [asyncio.create_task(course.go(running, answered)) for course in courses]
    for _ in range(steps):
        await answered.get()
    return under_way


def bursts(courses: list[Course], seed: int) -> list[int]:
    """How many steps are made before each kill."""
    steps, chance = sum(len(course.steps) for course in courses), random.Random(seed)
    return [chance.randint(3, steps // (KILLS + 1)) for _ in range(KILLS)]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
async def test_answered_changes_of_memories_survive_kills(
    tmp_path: Path, request: pytest.FixtureRequest, seed: int, store: str
) -> None:
    data, environment = tmp_path / "data", dict[str, str]()
    if store == "postgres":
        environment["MESH_DATABASE"] = str(request.getfixturevalue("postgres_url"))
    async with mesh_up(data, **environment) as running:
        courses = await courses_of(running)
    for steps in bursts(courses, seed):
        async with mesh_up(data, **environment) as running:
            await check(running, courses)
            under_way = await go(running, courses, steps)
            await running.kill()
            await asyncio.gather(*under_way)
    async with mesh_up(data, **environment) as running:
        await check(running, courses)
        await asyncio.gather(*await go(running, courses, 0))
        await check(running, courses)
        assert all(course.has_ended for course in courses)
        asked = await running.client.ask("researcher-agent", "Which word is quartz?")
        steps_of_task = (await running.get(f"/tasks/{asked.task_id}/steps", contents="true")).body
        assert not any(course.secret in str(steps_of_task) for course in courses)
    written = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for course in courses:
        assert [path for path, content in written.items() if course.secret.encode() in content] == []


@_SOAK
@pytest.mark.needs(*DAPR)
@pytest.mark.parametrize("shared", [False, True], ids=["folder", "postgres"])
async def test_answered_changes_of_memories_survive_kills_of_a_front_on_dapr(
    tmp_path: Path, request: pytest.FixtureRequest, seed: int, shared: bool
) -> None:
    environment = {"MESH_DATABASE": str(request.getfixturevalue("postgres_url"))} if shared else {}
    async with mesh_up(tmp_path / "data", up=ON_DAPR, **environment) as running:
        courses = await courses_of(running)
        for steps in bursts(courses, seed):
            under_way = await go(running, courses, steps)
            pid = worker_of(running, "")
            kill(pid)
            await gone([pid])
            await asyncio.gather(*under_way)
            await works(running)
            await check(running, courses)
        await asyncio.gather(*await go(running, courses, 0))
        await check(running, courses)
        assert all(course.has_ended for course in courses)
