"""The file of an agent is missing for one start: what its tasks get meanwhile is there when it is back."""

import tarfile
from pathlib import Path

import pytest

from meshwright.core.errors import Conflict
from tests.support.missing_agents import DROPPED, GATE, Project, questions
from tests.support.postgres import Address, Location
from tests.support.running_mesh import mesh


@pytest.fixture
def project(tmp_path: Path, location: Location) -> Project:
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project", location)


async def test_nothing_is_lost_while_agents_are_missing(project: Project) -> None:
    async with project.up() as running:
        boss = (await running.client.submit("boss", "Begin.")).task_id
        cancelled = (await running.client.submit("gate", "v1")).task_id
        approved = (await running.client.submit("gate", "v2")).task_id
        asked = await questions(running, 3)
        await running.kill()
    [kid] = asked.keys() - {cancelled, approved}

    project.take_away("boss", "gate")
    async with project.up() as running:
        await running.errors.until(f"agent boss is not loaded here; 1 open task waits for it: {boss}")
        await running.errors.until("agent gate is not loaded here; 2 open tasks wait for it: ")
        missing = (await running.get("/status")).body["missing"]
        assert [(agent["agent_id"], agent["tasks"]) for agent in missing] == [("boss", 1), ("gate", 2)]
        figures = (await running.get("/figures")).body["agents"]
        states = {agent["agent_id"]: agent["state"] for agent in figures}
        assert states == {"boss": "not loaded", "gate": "not loaded", "kid": "well"}
        shown = await mesh("status", "--url", running.url)
        assert f"agent boss is not loaded here; 1 open task waits for it: {boss}" in shown.out
        await running.client.answer(asked[kid], "red")
        assert (await running.client.outcome(kid)).text == "red"
        ending = await mesh("cancel", cancelled, "--url", running.url)
        assert "cancelled" in ending.out and not ending.err, ending
        assert (await running.client.outcome(cancelled)).status == "cancelled"
        assert asked[cancelled].id not in [question.id for question in await running.client.inbox()]
        view = await running.client.task(cancelled)
        assert (view.status, view.waits) == ("cancelled", ())
        with pytest.raises(Conflict, match="does not wait for that any more"):
            await running.client.answer(asked[cancelled], {"approve": True})
        told = await mesh("approve", asked[approved].id, "--url", running.url)
        assert told.status == 0 and "once its agent gate is loaded" in told.out, told
        with pytest.raises(Conflict, match="was answered"):
            await running.client.answer(asked[approved], {"approve": False})
        await running.kill()
    async with project.up() as running:
        await running.errors.until("agent gate is not loaded here; 1 open task waits for it: ")
    assert (await project.verify())[0] == 0

    project.bring_back()
    async with project.up() as running:
        await running.errors.until(f"agent boss is loaded again; 1 open task goes on: {boss}")
        assert (await running.client.outcome(boss)).text == "the kid said red"
        assert (await running.client.outcome(cancelled)).status == "cancelled"
        assert (await running.client.outcome(approved)).text == "v2"
        assert (await running.get("/status")).body["missing"] == []
        told = {
            line["text"] for line in (await running.get("/story")).body["lines"] if line["kind"] == "away"
        }
        assert told == {
            "Agent boss was not loaded; 1 task waited for it, and is back",
            "Agent gate was not loaded; 1 task waited for it, and is back",
        }
    assert project.deployed.read_text().split() == ["v2"]
    assert (await project.verify())[0] == 0


async def test_a_cancel_ends_what_a_task_of_a_missing_agent_has_delegated(project: Project) -> None:
    async with project.up() as running:
        boss = (await running.client.submit("boss", "Begin.")).task_id
        [kid] = await questions(running, 1)
    project.take_away("boss")
    async with project.up() as running:
        await running.client.cancel(boss)
        assert (await running.client.outcome(kid)).status == "cancelled"
        assert (await running.client.outcome(boss)).status == "cancelled"
        assert (await running.get("/status")).body["missing"] == []
    project.bring_back()
    async with project.up() as running:
        assert (await running.client.outcome(boss)).status == "cancelled"


async def test_a_task_that_was_cut_off_is_cancelled_while_its_agent_is_missing(project: Project) -> None:
    slow = (
        "print('begun', file=sys.stderr, flush=True)\n        await asyncio.sleep(60)\n        return await"
    )
    code = GATE.replace("return await", slow).replace("import os", "import asyncio\nimport os\nimport sys")
    (project.actors / "gate.py").write_text(code)
    async with project.up() as running:
        cut = (await running.client.submit("gate", "v1")).task_id
        await running.errors.until("begun")
        await running.kill()
    project.take_away("gate")
    async with project.up() as running:
        await running.errors.until("agent gate is not loaded here; 1 open task waits for it: ")
        assert (await running.client.cancel(cut)).status == "cancelled"
        assert (await running.client.outcome(cut)).error.message == "cancelled on request"
        assert (await running.get("/status")).body["missing"] == []
    project.bring_back()
    async with project.up() as running:
        await running.client.submit("kid", "Go.")
        assert (await running.client.task(cut)).status == "cancelled"
        assert (await running.client.retry(cut)).task_id == cut
        await running.errors.until("begun")
    assert not project.deployed.exists()
    assert (await project.verify())[0] == 0


async def test_a_front_without_an_agent_serves_the_tasks_of_one_beside_it(
    tmp_path: Path, postgres_url: Address
) -> None:
    folders = tmp_path / "front", tmp_path / "beside"
    for folder in folders:
        folder.mkdir()
    without, beside = (Project(folder, postgres_url) for folder in folders)
    without.take_away("gate")
    async with beside.up() as other, without.up() as front:
        approved, cancelled = [(await other.client.submit("gate", text)).task_id for text in ("v1", "v2")]
        asked = await questions(front, 2)
        view = await front.client.answer(asked[approved], {"approve": True})
        assert view is not None and view.missing_agent is None
        with pytest.raises(Conflict, match="was answered"):
            await other.client.answer(asked[approved], {"approve": False})
        await front.client.cancel(cancelled)
        assert (await front.client.outcome(approved)).text == "v1"
        assert (await front.client.outcome(cancelled)).status == "cancelled"
        here = (await front.client.submit("gate", "v3")).task_id
        await front.client.answer((await questions(front, 1))[here], {"approve": True})
        assert (await front.client.outcome(here)).text == "v3"
        assert (await front.get("/status")).body["missing"] == []
    assert beside.deployed.read_text().split() == ["v1", "v3"]


async def test_an_answer_that_was_lost_is_found_and_asked_for(project: Project) -> None:
    async with project.up() as running:
        boss = (await running.client.submit("boss", "Begin.")).task_id
        asked = await questions(running, 1)
    project.take_away("boss")
    async with project.up() as running:
        [kid] = asked
        await running.client.answer(asked[kid], "red")
        await running.client.outcome(kid)
    assert (await project.verify())[0] == 0
    project.lose_messages("boss")
    status, findings = await project.verify()
    assert (
        status == 1 and f"Task {boss} of tenant default: it waits for task {kid}, which has ended" in findings
    )
    project.bring_back()
    async with project.up() as running:
        assert (await running.client.outcome(boss)).text == "the kid said red"
    assert (await project.verify())[0] == 0


async def test_dropped_messages_of_an_older_folder_are_asked_for_again(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path)
    with tarfile.open(DROPPED) as packed:
        packed.extractall(project.data, filter="data")
    status, findings = await project.verify()
    assert status == 1 and "has the tables of an older version" in findings and "mesh up" in findings
    async with project.up() as running:
        boss, gate = [
            (await running.client.submit(agent, text, idempotency_key=agent)).task_id
            for agent, text in (("boss", "Begin."), ("gate", "v1"))
        ]
        assert (await running.client.outcome(boss)).text == "the kid said red"
        assert (await running.client.outcome(gate)).status == "cancelled"
        assert await running.client.inbox() == []
    assert not project.deployed.exists()
    assert (await project.verify())[0] == 0
