"""A task from end to end: published, dispatched, worked on, logged, seen; by HTTP and by command line."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.client import ENDINGS
from tests.run import DAPR
from tests.support.running_mesh import RunningMesh, mesh, mesh_up

QUESTION = "Where does the code decide which agent gets a task?"


UPS = [
    pytest.param((), id="sqlite"),
    pytest.param(("--host", "dapr"), id="dapr", marks=pytest.mark.needs(*DAPR)),
]


@pytest.fixture(scope="module", params=UPS)
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningMesh]:
    async with mesh_up(tmp_path_factory.mktemp("lifecycle") / "data", *request.param) as running:
        yield running


@pytest.fixture(scope="module")
async def task_id(running: RunningMesh) -> str:
    """A task of the architect that has ended."""
    task_id = await running.submit(QUESTION, key="lifecycle-1", capability="architecture-review")
    await running.story(task_id)
    return task_id


async def test_a_repeated_key_is_the_same_task(running: RunningMesh, task_id: str) -> None:
    assert await running.submit(QUESTION, key="lifecycle-1", capability="architecture-review") == task_id
    accepted = (await running.get("/events", task_id=task_id, event_type="task.accepted")).body["items"]
    assert len(accepted) == 1


async def test_the_story_of_a_task_is_told_in_order(running: RunningMesh, task_id: str) -> None:
    story = await running.story(task_id)
    types = [event["event_type"] for event in story]
    stations = ["task.accepted", "task.dispatched", "task.started", "model.called"]
    assert list(dict.fromkeys(one for one in types if one in stations)) == stations
    assert types.index("model.called") < types.index("task.succeeded")
    assert [event["seq"] for event in story] == sorted({event["seq"] for event in story})
    assert {event["task_id"] for event in story} == {task_id}
    assert len({event["trace_id"] for event in story}) == 1 and story[0]["trace_id"]


async def test_the_task_shows_its_attempts_and_its_outcome(running: RunningMesh, task_id: str) -> None:
    status, view = await running.get(f"/tasks/{task_id}")
    assert (status, view["status"], view["capability"]) == (200, "succeeded", "architecture-review")
    assert view["payload"]["text"] == QUESTION
    [attempt] = view["attempts"]
    assert attempt["agent_id"] == attempt["score_card"]["agent_id"] == "architect-agent"
    outcome = view["outcome"]
    assert (outcome["task_id"], outcome["success"], outcome["model"]) == (task_id, True, "offline")
    assert outcome["result"]["text"].strip()
    assert outcome["usage"]["prompt_tokens"] > 0 and outcome["cost_usd"] == "0"


async def test_the_steps_of_a_task_show_what_was_told_and_said(running: RunningMesh, task_id: str) -> None:
    status, page = await running.get(f"/tasks/{task_id}/steps")
    steps = page["items"]
    assert status == 200
    assert {"context", "model", "tool"} <= {step["kind"] for step in steps}
    assert all(step["has_contents"] and step["status"] == "done" for step in steps)
    _, last = await running.get(f"/tasks/{task_id}/steps/{steps[-1]['path']}")
    assert QUESTION in [message["content"] for message in last["messages"]]
    _, view = await running.get(f"/tasks/{task_id}")
    assert last["reply"]["content"] == view["outcome"]["result"]["text"]
    done = await mesh("task", task_id, "--steps", "--url", running.url)
    assert done.out.count("\n") == len(steps) + 1


async def test_each_agent_of_a_thread_is_told_what_was_said_in_it(running: RunningMesh) -> None:
    for agent_id, text in (("simple-agent", "My name is Ada."), ("architect-agent", QUESTION)):
        body = {"agent_id": agent_id, "payload": {"text": text}, "thread_id": "shared"}
        reply = await running.post("/tasks", body)
        await running.story(reply.body["task_id"])
    steps = (await running.get(f"/tasks/{reply.body['task_id']}/steps", contents="true")).body["items"]
    told = next(step["messages"] for step in steps if step["kind"] == "model")
    said = [(message["role"], message["content"]) for message in told if message["role"] != "system"]
    assert [role for role, _ in said] == ["user", "assistant", "user"]
    assert "My name is Ada." in said[0][1]
    assert QUESTION in said[2][1]


async def test_there_is_one_outcome_and_the_log_has_it(running: RunningMesh, task_id: str) -> None:
    events = (await running.get("/events", task_id=task_id)).body["items"]
    ends = [event for event in events if event["event_type"] in ENDINGS]
    assert [end["payload"] for end in ends] == [(await running.get(f"/tasks/{task_id}")).body["outcome"]]


async def test_the_spans_of_a_task_are_one_trace_in_the_log(running: RunningMesh, task_id: str) -> None:
    trace_id = (await running.get(f"/tasks/{task_id}")).body["trace_id"]
    wanted = {"submit task", "invoke_agent architect-agent", "chat default"}
    spans: list[dict[str, Any]] = []
    async for event in running.stream(trace_id=trace_id, event_type="trace.spans"):
        assert event["topic"] == "traces"
        spans += event["payload"]["spans"]
        if wanted <= {span["name"] for span in spans}:
            break
    [root] = [span for span in spans if span["parent_span_id"] is None]
    assert (root["name"], root["attributes"]["meshwright.task.status"]) == ("submit task", "succeeded")
    for span in spans:
        assert root["start_time"] <= span["start_time"] <= span["end_time"] <= root["end_time"]


async def test_the_agents_are_there_and_scored(running: RunningMesh) -> None:
    agents = (await running.get("/agents")).body["items"]
    names = {agent["agent_id"] for agent in agents}
    assert names >= {"simple-agent", "researcher-agent", "architect-agent", "api-coder"}
    assert {agent["status"] for agent in agents} == {"online"}
    scores = (await running.get("/agents/score/architecture-review")).body["items"]
    assert scores[0]["agent_id"] == "architect-agent"
    card = scores[0]
    product = card["weight"] * card["health"] * card["success"] * card["streak"] * card["preferred"]
    assert card["score"] == pytest.approx(product)


async def test_a_delegated_task_is_a_task_of_its_own(running: RunningMesh) -> None:
    task_id = await running.submit(
        "Find out if a task is safe against kill -9.", agent_id="architect-agent", capability=None
    )
    story = await running.story(task_id)
    assert story[-1]["event_type"] == "task.succeeded"
    [waiting] = [event for event in story if event["event_type"] == "task.waiting"]
    child = waiting["payload"]["child_task_id"]
    view = (await running.get(f"/tasks/{child}")).body
    assert (view["status"], view["outcome"]["agent_id"]) == ("succeeded", "researcher-agent")


# The same by command line


async def test_ask_prints_the_answer_alone_and_draws_the_road_beside_it(running: RunningMesh) -> None:
    where = ("--url", running.url)
    assert (
        await mesh("ask", "architect-agent", "Remember that a turn of this project is small.", *where)
    ).status == 0
    done = await mesh("ask", "architect-agent", "Find out what a turn is.", *where)
    assert done.status == 0 and done.out.strip()
    drawn = [line.split()[0] for line in done.err.splitlines()]
    assert drawn[:2] == ["accepted", "dispatched"] and drawn[-2:] == ["succeeded", "events"]
    assert {"memory", "model", "tool", "waiting"} <= set(drawn)
    assert "dispatched  architect-agent  score" in done.err.replace("   ", "  ")
    child = done.err[done.err.index("waiting") :]
    assert "\n    accepted" in child and "\n    succeeded" in child


async def test_commands_find_the_mesh_of_their_data_folder(running: RunningMesh, task_id: str) -> None:
    where = ("--data", str(running.data))
    shown = json.loads((await mesh("task", task_id, "--json", *where)).out)
    assert shown == (await running.get(f"/tasks/{task_id}")).body
    assert task_id in (await mesh("tasks", "--limit", "500", *where)).out
    assert "researcher-agent  online" in (await mesh("agents", *where)).out
    events = [
        json.loads(line)
        for line in (await mesh("events", "--task", task_id, "--json", *where)).out.splitlines()
    ]
    assert {event["task_id"] for event in events} == {task_id}
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)


async def test_submit_with_a_key_and_wait(running: RunningMesh) -> None:
    command = (
        "submit",
        "--capability",
        "general-query",
        "Hello",
        "--idempotency-key",
        "cli-1",
        "--url",
        running.url,
    )
    first, again = await mesh(*command), await mesh(*command)
    assert (first.status, again.status) == (0, 0) and first.out == again.out
    waited = await mesh(*command, "--wait", "--json", "--quiet")
    outcome = json.loads(waited.out)
    assert (waited.status, waited.err, outcome["task_id"]) == (0, "", first.out.strip())
    other = await mesh(*command[:2], "Good bye", *command[3:])
    assert other.status == 1 and other.err.count("\n") == 1


async def test_an_unknown_agent_is_one_line(running: RunningMesh) -> None:
    done = await mesh("ask", "nobody", "Hello", "--url", running.url)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "no agent 'nobody'" in done.err


async def test_ask_without_a_running_mesh_is_a_mesh_of_its_own(tmp_path: Path) -> None:
    done = await mesh("ask", "simple-agent", "What is Meshwright?", "--data", str(tmp_path / "data"))
    assert done.status == 0 and done.out.strip()
    task = done.err.split("--task ")[-1].split()[0]
    events = await mesh("events", "--task", task, "--data", str(tmp_path / "data"))
    assert events.status == 0 and "task.succeeded" in events.out
    assert not (tmp_path / "data" / "mesh.json").exists()


async def test_a_running_mesh_says_which_prompt_it_cannot_use_and_which_it_read_again(tmp_path: Path) -> None:
    prompt = tmp_path / "simple-agent.prompt"
    async with mesh_up(tmp_path / "data", MESH_PROMPTS__DIR=str(tmp_path)) as running:
        await running.outcome(await running.submit("Hello"))
        await running.errors.until(f'"message": "{prompt}: there is no such file')
        prompt.write_text("---\ntags: [default]\n---\nHello\n")
        running.process.send_signal(signal.SIGHUP)
        await running.errors.until(f'"message": "{prompt} was read again"')


async def test_a_running_mesh_says_which_skill_it_cannot_use_and_which_it_read_again(tmp_path: Path) -> None:
    skill = tmp_path / "skills/forms/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: forms\ndescription: Fills forms.\n---\nOne.\n")
    skills = "[skills]\nreload_seconds = 0.1\nagents = {simple-agent = ['forms']}\n"
    (tmp_path / "mesh.toml").write_text(skills)
    async with mesh_up(tmp_path / "data", cwd=tmp_path) as running:
        skill.write_text("---\nname: forms\n---\nOne.\n")
        await running.errors.until("SKILL.md:1: field 'description' is missing")
        skill.write_text("---\nname: forms\ndescription: Fills forms.\n---\nTwo.\n")
        await running.errors.until(f'"message": "{skill} was read again"')


async def test_log_of_a_mesh_is_json_with_its_requests_where_wanted(tmp_path: Path) -> None:
    async with mesh_up(tmp_path / "data", "--log-level", "uvicorn.access=info") as running:
        await running.get("/tasks", limit="1", agent_id="the-words-of-a-person")
        await running.errors.until("GET /tasks HTTP/1.1")
        await running.stop()
        written = await running.errors.whole()
    lines = [json.loads(line) for line in written.splitlines()]
    assert {"meshwright.mesh", "uvicorn.access"} <= {line["logger"] for line in lines}
    assert all(line["time"] and line["level"] and line["message"] for line in lines)
    assert "words-of-a-person" not in written
