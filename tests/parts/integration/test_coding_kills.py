"""Coding agents and kill -9: a session goes on where the agent can, a permission is asked once."""

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coding.program_course import kill_program
from tests.run import DAPR
from tests.support.coding_agents import working_below
from tests.support.fake_openai import FakeOpenAI
from tests.support.killed_mesh import KilledMesh
from tests.support.repositories import repository
from tests.support.running_mesh import RunningMesh, mesh_up

pytestmark = pytest.mark.needs("git", "bwrap")
PROGRAM = Path(__file__).resolve().parents[2] / "support" / "fake_acp_agent"


def setup_of(folder: Path, flaws: str = "") -> dict[str, str]:
    return {
        "MESH_TREES__CODE__REPOSITORY": str(repository(folder / "source")),
        "MESH_CODING__FIXER__PROGRAM": "acp",
        "MESH_CODING__FIXER__PERMISSIONS": "ask",
        "MESH_CODING__FIXER__COMMAND": str(PROGRAM),
        "MESH_CODING__FIXER__CAPABILITIES": '["code-repair"]',
        "MESH_CODING__FIXER__ARGS": json.dumps(flaws.split()),
    }


def is_call(event: dict[str, Any]) -> bool:
    return event["event_type"] == "coding.call"


def is_waiting(event: dict[str, Any]) -> bool:
    return event["event_type"] == "task.waiting"


def is_proposed(event: dict[str, Any]) -> bool:
    return is_waiting(event) and "propose" in str(event["payload"])


async def proposed(running: RunningMesh, task_id: str) -> dict[str, Any]:
    """Approve what is proposed; the result of the task."""
    await running.until(is_proposed)
    [question] = await running.client.inbox()
    await running.client.answer(question, {"approve": True})
    result: dict[str, Any] = (await running.outcome(task_id))["result"]
    return result


async def sessions(running: RunningMesh) -> list[str]:
    page = await running.get("/events", event_type="coding.session", limit=100)
    return [event["payload"]["how"] for event in page.body["items"]]


@pytest.mark.parametrize(("flaws", "how"), [("", "resumed"), ("no-load", "restarted")])
async def test_a_session_that_kill_9_cut_off_goes_on_with_its_files(
    tmp_path: Path, flaws: str, how: str
) -> None:
    data, setup = tmp_path / "data", setup_of(tmp_path, flaws)
    async with mesh_up(data, **setup) as first:
        task_id = await first.submit(
            "Have add() add. [hangs once]", agent_id="fixer", capability="code-repair"
        )
        await first.until(is_call)
        await first.kill()
    async with mesh_up(data, **setup) as second:
        result = await proposed(second, task_id)
        assert sorted(await sessions(second)) == sorted(["new", how])
    assert result["changed"] == ["M calc.py", "A half.txt"]
    assert ("Prompts: 2" in result["text"]) == (how == "resumed")


@pytest.mark.parametrize("victim", ["mesh", "program"])
async def test_a_running_command_ends_with_the_mesh_or_the_program_that_kill_9_ends(
    tmp_path: Path, victim: str
) -> None:
    data, setup = tmp_path / "data", setup_of(tmp_path)
    async with AsyncExitStack() as meshes:
        running = await meshes.enter_async_context(mesh_up(data, **setup))
        words = "Have add() add. [runs command]"
        task_id = await running.submit(words, agent_id="fixer", capability="code-repair")
        await running.until(is_call)
        if victim == "mesh":
            await running.kill()
            running = await meshes.enter_async_context(mesh_up(data, **setup))
        else:
            kill_program(running.process.pid, PROGRAM.name)
        result = await proposed(running, task_id)
        diff = (await running.get(f"/trees/{task_id}/diff")).body["diff"]
        ended = await running.get("/events", event_type="coding.turn", limit=100)
        assert await sessions(running) == ["new", "resumed"]
        assert not working_below(data / "trees")
    assert result["changed"] == ["M calc.py", "A watch.txt"]
    assert "+ended" in diff
    texts = [event["payload"]["text"] for event in ended.body["items"]]
    assert any("while it ran: watch the files" in text for text in texts) == (victim == "program")


STORES = ["sqlite", "postgres", pytest.param("dapr", marks=pytest.mark.needs(*DAPR))]


@pytest.mark.parametrize("store", STORES)
async def test_a_permission_outlives_kill_9_and_is_asked_once(
    tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if store == "postgres" else None
    async with KilledMesh(store, tmp_path / "data", url, setup_of(tmp_path)) as mesh:
        words = "Have add() add. [asks]"
        task_id = await mesh.running.submit(words, agent_id="fixer", capability="code-repair")
        [permission] = await mesh.questions()
        await mesh.kill()
        [question] = await mesh.questions()
        assert question.wait_id == permission.wait_id
        await mesh.running.client.answer(question, {"approve": True})
        result = await proposed(mesh.running, task_id)
        page = await mesh.running.get("/events", event_type="task.waiting", limit=100)
        assert await sessions(mesh.running) == ["new", "resumed"]
    assert result["changed"] == ["M calc.py"]
    assert len(page.body["items"]) == 2  # the permission, and the proposal


async def test_a_permission_that_is_asked_again_after_kill_9_has_its_answer(tmp_path: Path) -> None:
    data, setup = tmp_path / "data", setup_of(tmp_path)
    async with mesh_up(data, **setup) as first:
        words = "Have add() add. [asks] [hangs once allowed]"
        task_id = await first.submit(words, agent_id="fixer", capability="code-repair")
        await first.until(is_waiting)
        [question] = await first.client.inbox()
        await first.client.answer(question, {"approve": True})
        await first.until(is_call)
        await first.kill()
    async with mesh_up(data, **setup) as second:
        result = await proposed(second, task_id)
        waits = await second.get("/events", event_type="task.waiting", limit=100)
        decided = await second.get("/events", event_type="coding.permission", limit=100)
    assert result["changed"] == ["M calc.py", "A half.txt"]
    assert len(waits.body["items"]) == 2
    assert len(decided.body["items"]) == 1


async def test_finished_calls_of_models_are_not_made_again(tmp_path: Path) -> None:
    data, setup = tmp_path / "data", setup_of(tmp_path)
    async with FakeOpenAI() as provider:
        provider.replies += [{"content": text} for text in ("one", "two", "three")]
        setup["LITELLM_BASE_URL"] = provider.url
        words = "Have add() add. [asks model] [hangs once]"
        async with mesh_up(data, **setup) as first:
            task_id = await first.submit(words, agent_id="fixer", capability="code-repair")
            await first.until(is_call)
            await first.kill()
        async with mesh_up(data, **setup) as second:
            await proposed(second, task_id)
            tree = await second.get(f"/trees/{task_id}/diff")
            task = await second.get(f"/tasks/{task_id}")
        assert len(provider.calls) == 3
        assert "+200 one\n+200 three\n" in tree.body["diff"]
        assert task.status == 200
