"""The span of a task is recorded once, when the task ends: with its state, its error and its contents."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run
from meshwright.core.errors import NoAgentAvailable, ToolFailed
from meshwright.core.messages import TaskRequest
from meshwright.core.topics import TASK_PROGRESS
from meshwright.core.tracing import parse
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.postgres import Address, Location
from tests.support.settings import load_settings

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Span = Mapping[str, Any]


class Clerk(Agent):
    """Does as it is told."""

    agent_id = "clerk"
    capabilities = (Capability("clerk"),)
    delegates_to = ("helper",)

    async def run(self, run: Run) -> str:
        match run.task.text:
            case "ask":
                return await run.ask_person("Which?")
            case "delegate":
                await run.delegate("helper", "Help.")
            case "refuse":
                raise ToolFailed("there is no such thing")
            case "break":
                raise ValueError("my password is 1234")
            case "wait":
                await asyncio.Event().wait()
        return f"did {run.task.text}"


class Helper(Agent):
    """Cannot help."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str:
        return "helped"


@asynccontextmanager
async def clerks(folder: Path, *, content: bool = False, **settings: Any) -> AsyncIterator[Mesh]:
    values = {"model": "offline", "trace_content": content, **settings}
    async with build_mesh(load_settings(folder, **values), project=folder, agents=[Clerk, Helper]) as mesh:
        yield mesh


async def submit(mesh: Mesh, text: str, **fields: Any) -> str:
    request = TaskRequest(agent_id="clerk", payload={"text": text}, **fields)
    return (await mesh.get(Tasks).submit(request)).task_id


async def spans_of(mesh: Mesh, trace_id: str | None = None, *, roots: int = 0) -> list[Span]:
    """The spans in the log, those of one trace or all, once so many tasks have theirs there."""
    while True:
        await mesh.tracing.flush()
        await mesh.runtime.emit([])
        events = await mesh.log.query(EventFilter(event_type="trace.spans", trace_id=trace_id, limit=1_000))
        spans = [span for event in events for span in event.fields["spans"]]
        if len(named(spans, "submit task")) >= roots:
            return spans


async def task_span(mesh: Mesh, text: str, **fields: Any) -> Span:
    """The one span of a task that does as it is told to its end."""
    task_id = await submit(mesh, text, **fields)
    await mesh.get(Tasks).outcome(task_id)
    [span] = named(await spans_of(mesh), "submit task")
    return span


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span["name"] == name]


def status(span: Span) -> tuple[str, str, str, str | None]:
    attributes = span["attributes"]
    state = attributes["meshwright.task.status"]
    return state, span["status"], span["status_message"], attributes.get("error.type")


async def test_the_root_ends_with_its_task_and_covers_all_of_it(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        root = await task_span(mesh, "work")
        spans = await spans_of(mesh)
    [agent] = named(spans, "invoke_agent clerk")
    assert (root["parent_span_id"], agent["parent_span_id"]) == (None, root["span_id"])
    assert {span["trace_id"] for span in spans} == {root["trace_id"]}
    assert root["start_time"] <= agent["start_time"] <= agent["end_time"] <= root["end_time"]
    assert status(root) == ("succeeded", "unset", "", None)
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & root["attributes"].keys()


async def test_a_failed_task_has_a_failed_root_with_the_message_of_our_own_errors(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        root = await task_span(mesh, "refuse")
    state, code, message, error = status(root)
    assert (state, code, error) == ("failed", "error", "ToolFailed")
    assert "there is no such thing" in message


@pytest.mark.parametrize("content", [False, True])
async def test_what_a_foreign_error_says_is_in_the_root_with_the_switch_alone(
    tmp_path: Path, content: bool
) -> None:
    async with clerks(tmp_path, content=content) as mesh:
        root = await task_span(mesh, "break")
    state, code, message, error = status(root)
    assert (state, code, error) == ("failed", "error", "ValueError")
    assert ("my password" in message) == content


async def test_request_and_answer_are_in_the_root_with_the_switch(tmp_path: Path) -> None:
    async with clerks(tmp_path, content=True) as mesh:
        root = await task_span(mesh, "work")
    attributes = root["attributes"]
    assert attributes["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"work"}]}]'
    )
    assert attributes["gen_ai.output.messages"] == (
        '[{"role":"assistant","parts":[{"type":"text","content":"did work"}]}]'
    )


async def test_a_cancelled_task_says_so(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        task_id = await submit(mesh, "wait")
        after = await submit(mesh, "work", after=task_id)  # it has not begun
        for one in (after, task_id):
            await mesh.get(Tasks).cancel(one)
            await mesh.get(Tasks).outcome(one)
        roots = named(await spans_of(mesh), "submit task")
    assert [status(root) for root in roots] == [
        ("cancelled", "error", "cancelled on request", "Cancelled")
    ] * 2


async def test_a_task_past_its_deadline_says_so(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        root = await task_span(mesh, "wait", deadline=0.2)
    state, code, message, error = status(root)
    assert (state, code, error) == ("timed_out", "error", "DeadlineExceeded") and message


async def test_a_delegated_task_has_no_span_of_its_own(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        root = await task_span(mesh, "delegate")
        spans = await spans_of(mesh)
    first, *_ = named(spans, "invoke_agent clerk")
    [helper] = named(spans, "invoke_agent helper")
    assert (helper["trace_id"], helper["parent_span_id"]) == (root["trace_id"], first["span_id"])


async def test_the_root_is_below_the_span_of_its_caller(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        request = TaskRequest(agent_id="clerk", payload={"text": "work"})
        receipt = await mesh.get(Tasks).submit(request, traceparent=CALLER)
        await mesh.get(Tasks).outcome(receipt.task_id)
        [root] = named(await spans_of(mesh), "submit task")
    caller = parse(CALLER)
    assert caller is not None
    assert (root["trace_id"], root["parent_span_id"]) == (caller.trace_id, caller.span_id)


async def test_a_repeated_request_has_no_second_root(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        for _ in range(2):
            request = TaskRequest(agent_id="clerk", payload={"text": "work"})
            receipt = await mesh.get(Tasks).submit(request, idempotency_key="one")
            await mesh.get(Tasks).outcome(receipt.task_id)
        assert len(named(await spans_of(mesh), "submit task")) == 1


async def test_the_root_of_a_task_that_outlives_its_mesh_is_written_by_the_next(
    tmp_path: Path, location: Location
) -> None:
    database = {} if isinstance(location, Path) else {"database": str(location)}
    async with clerks(tmp_path, content=True, **database) as mesh:
        waiting = asyncio.Event()
        mesh.runtime.listen(TASK_PROGRESS, lambda _: waiting.set(), ("task.waiting",))
        task_id = await submit(mesh, "ask")
        await waiting.wait()
        view = await mesh.get(Tasks).task(task_id)
        assert named(await spans_of(mesh), "submit task") == []
    async with clerks(tmp_path, content=True, **database) as mesh:
        [wait] = view.waits
        await mesh.get(Tasks).answer(task_id, wait.wait_id, "this one")
        await mesh.get(Tasks).outcome(task_id)
        spans = await spans_of(mesh, view.trace_id, roots=1)
    [root] = named(spans, "submit task")
    agents = named(spans, "invoke_agent clerk")
    assert len(agents) == 2
    assert {agent["parent_span_id"] for agent in agents} == {root["span_id"]}
    assert root["start_time"] <= agents[0]["start_time"] and agents[-1]["end_time"] <= root["end_time"]
    assert "this one" in root["attributes"]["gen_ai.output.messages"]


async def test_each_of_many_tasks_of_two_workers_has_one_root(tmp_path: Path, postgres_url: Address) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    database = {"database": str(postgres_url)}
    async with clerks(tmp_path / "one", **database) as one, clerks(tmp_path / "two", **database) as two:
        task_ids = await asyncio.gather(*(submit(mesh, "delegate") for mesh in (one, two) * 20))
        await asyncio.gather(*(one.get(Tasks).outcome(task_id) for task_id in task_ids))
        await asyncio.gather(*(spans_of(mesh, roots=len(task_ids)) for mesh in (one, two)))
        spans = await spans_of(one)
    roots = named(spans, "submit task")
    assert sorted(root["attributes"]["meshwright.task.id"] for root in roots) == sorted(task_ids)
    above = {root["span_id"]: root["trace_id"] for root in roots}
    for agent in named(spans, "invoke_agent clerk"):
        assert above[agent["parent_span_id"]] == agent["trace_id"]


async def test_a_retry_has_a_span_of_its_own_in_the_trace(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        root = await task_span(mesh, "refuse")
        task_id = root["attributes"]["meshwright.task.id"]
        await mesh.get(Tasks).retry(task_id)
        await mesh.get(Tasks).outcome(task_id)
        spans = await spans_of(mesh, root["trace_id"])
    [again] = named(spans, "retry task")
    first, second = named(spans, "invoke_agent clerk")
    assert again["span_id"] != root["span_id"] and again["parent_span_id"] == root["parent_span_id"]
    assert (first["parent_span_id"], second["parent_span_id"]) == (root["span_id"], again["span_id"])
    assert root["end_time"] <= again["start_time"] <= second["start_time"] <= again["end_time"]
    assert status(again)[0] == "failed"


async def test_a_refused_task_has_a_failed_root(tmp_path: Path) -> None:
    async with clerks(tmp_path) as mesh:
        with pytest.raises(NoAgentAvailable):
            await mesh.get(Tasks).submit(TaskRequest(capability="flying", payload={"text": "Fly."}))
        [root] = await spans_of(mesh)
    assert (root["name"], root["status"], root["parent_span_id"]) == ("submit task", "error", None)
    assert root["attributes"]["error.type"] == "NoAgentAvailable" and "flying" in root["status_message"]


async def test_without_tracing_a_task_has_no_span(tmp_path: Path) -> None:
    async with clerks(tmp_path, trace=False) as mesh:
        task_id = await submit(mesh, "work")
        await mesh.get(Tasks).outcome(task_id)
        assert await spans_of(mesh) == []
