"""Many tasks and questions at once: cancelled, answered and redriven, by ids on stdin and by filters."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.core.errors import Conflict, InvalidInput, NotFound
from meshwright.mesh.orchestration.reruns import AnswerResult
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

AGENTS = '''
"""An agent that asks, waits or fails, as its request says."""

from pathlib import Path

from meshwright import Agent, Capability, Run

BROKEN = Path({broken!r})


class Worker(Agent):
    """Does what the first word says."""

    agent_id = "worker"
    capabilities = (Capability("working"),)
    delegates_to = ("helper",)

    async def run(self, run: Run) -> str:
        word = run.task.text.split()[0]
        if word == "ask":
            return await run.ask_person(f"{{run.task.text}}?")
        if word == "wait":
            await run.sleep(600)
        if word == "fail" and BROKEN.exists():
            raise ValueError("it is broken")
        if word == "delegate":
            await run.delegate("helper", "help")
        return await run.ask(run.task.text)


class Helper(Agent):
    """Asks a person, too."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str:
        return await run.ask_person("May I help?")
'''


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningMesh]:
    (tmp_path / "actors").mkdir()
    (tmp_path / "broken").touch()
    (tmp_path / "actors" / "batch.py").write_text(AGENTS.format(broken=str(tmp_path / "broken")))
    async with mesh_up(tmp_path / "data", MESH_AGENTS__DIR=str(tmp_path / "actors")) as running:
        yield running


async def submit(running: RunningMesh, *texts: str, status: str = "waiting") -> list[str]:
    """Submit tasks, and wait until each has come to where it waits or ends."""
    receipts = [await running.client.submit("worker", text) for text in texts]
    for receipt in receipts:
        async for event in running.client.follow(receipt.task_id):
            if event.event_type == f"task.{status}":
                break
    return [receipt.task_id for receipt in receipts]


async def test_open_tasks_are_cancelled_by_ids_and_by_filters(running: RunningMesh) -> None:
    client, url = running.client, ("--url", running.url)
    first, second, third, fourth = await submit(running, "wait one", "wait two", "wait three", "wait four")
    with pytest.raises(InvalidInput, match="filter"):
        await client.cancel_all()
    planned = await client.cancel_all(text="WAIT T*", dry_run=True)
    assert {task.task_id for task in planned} == {second, third}
    assert {task.status for task in await client.tasks(status="waiting")} == {"waiting"}
    unconfirmed = await mesh("cancel", "--text", "wait t*", *url)
    assert (unconfirmed.status, "2 open tasks are cancelled" in unconfirmed.err) == (2, True)
    done = await mesh("cancel", "-", *url, stdin=f"{first}\nnothing\n{second}\n")
    assert (done.status, done.out.count("cancel"), "'nothing'" in done.err) == (1, 2, True)
    assert (await mesh("cancel", "--agent", "worker", "--yes", *url)).status == 0
    outcomes = [await client.outcome(task_id) for task_id in (first, second, third, fourth)]
    assert {outcome.status for outcome in outcomes} == {"cancelled"}
    assert await client.cancel_all(everything=True) == []
    with pytest.raises(NotFound, match=r"'wroker'.*worker"):
        await client.cancel_all(agent_id="wroker")


async def test_questions_of_one_kind_are_answered_once_by_two_at_a_time(running: RunningMesh) -> None:
    client, url = running.client, ("--url", running.url)
    tasks = await submit(running, "ask one", "ask two", "ask three", "delegate")
    assert [question.task_id for question in await client.inbox(text="ASK T*")] == tasks[1:3]
    assert [question.task_id for question in await client.inbox(agent_id="worker", ended=True)] == tasks[:3]
    with pytest.raises(NotFound, match=r"'hepler'.*helper"):
        await client.inbox(agent_id="hepler")
    shown = await mesh("inbox", "--agent", "worker", "--text", "one", "--json", *url)
    assert [question["question"] for question in json.loads(shown.out)] == ["ask one?"]
    with pytest.raises(Conflict, match=r"2 kinds.*'worker: question' .3.") as refused:
        await client.answer_all("yes", everything=True)
    assert refused.value.field == "kind"
    page = {"all": True, "value": "yes", "limit": 1}  # of which the first is of one kind
    assert (await running.post("/inbox/answer", page)).status == 409
    planned = await client.answer_all("yes", kind="helper: question", dry_run=True)
    assert [(question.question, question.is_dry) for question in planned] == [("May I help?", True)]
    wrong = await client.answer_all(17, text="ask one")
    assert ["does not fit" in str(question.refused) for question in wrong] == [True]
    both: list[list[AnswerResult]] = await asyncio.gather(
        client.answer_all("yes", agent_id="worker"), client.answer_all("no", agent_id="worker")
    )
    given = Counter(question.task_id for half in both for question in half if question.refused is None)
    assert given == Counter(tasks[:3])
    for question in (question for half in both for question in half if question.refused is not None):
        assert "answered by" in question.refused.message
    done = await mesh("answer", "--kind", "helper: question", "you may", "--yes", "--json", *url)
    assert (done.status, [question["refused"] for question in json.loads(done.out)]) == (0, [None])
    outcomes = [await client.outcome(task_id) for task_id in tasks]
    assert [outcome.success for outcome in outcomes] == [True] * 4
    tree = await client.tree(tasks[3])
    assert [(node.agent_id, node.depth, node.status) for node in tree.items] == [
        ("worker", 0, "succeeded"),
        ("helper", 1, "succeeded"),
    ]
    shown = await mesh("task", "tree", tasks[3], *url)
    assert (shown.status, shown.out.count("succeeded")) == (0, 2)
    with pytest.raises(NotFound):
        await client.tree("nothing")


async def test_a_group_of_dead_letters_is_redriven(running: RunningMesh, tmp_path: Path) -> None:
    client, url = running.client, ("--url", running.url)
    tasks = await submit(running, "fail one", "fail two", status="failed")
    listed = await mesh("dead-letters", "--cause", "ValueError", *url)
    assert (listed.status, "oldest" in listed.out, "ValueError" in listed.out) == (0, True, True)
    (tmp_path / "broken").unlink()
    assert (await mesh("dead-letters", "redrive", *url)).status == 2
    done = await mesh("dead-letters", "redrive", "--cause", "ValueError", "--yes", *url)
    assert (done.status, done.out.count("begins from the start")) == (0, 2), done.err
    assert [(await client.outcome(task_id)).generation for task_id in tasks] == [2, 2]
    assert await client.dead_letters() == []
    listed = await mesh("tasks", "--prompt", "worker", "--status", "succeeded", "--json", *url)
    assert {task["task_id"] for task in json.loads(listed.out)} == {*tasks}
    costs = json.loads((await mesh("costs", "--prompt", "worker", "--by", "prompt,task", "--json", *url)).out)
    assert {item["key2"] for item in costs["items"]} == {*tasks}
    assert {item["key"].partition("@")[0] for item in costs["items"]} == {"worker"}
    events = await mesh("events", "--text", "fail two", "--type", "task.retried", *url)
    assert events.out.count("task.retried") == 1
    listed = await mesh("tasks", "--text", '"fail two"', *url)
    assert (listed.out.count("«fail two»"), listed.out.count(tasks[1][-6:])) == (1, 1), listed.out
    costs = await client.costs("task", text="fail one")
    assert [cost.key for cost in costs.items] == [tasks[0]]
