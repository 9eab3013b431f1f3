"""The transcript of a task: what was told, said, called and given at each step, from the client's side."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Client, TaskRequest, tool
from meshwright.agents.run.recorded_steps import SentMessages
from meshwright.agents.run.run import Run
from meshwright.agents.run.transcript import Transcript
from meshwright.core.errors import InvalidInput, NotFound
from meshwright.core.events import Event
from meshwright.engine.kernel.envelope import ActorRef, Record
from meshwright.engine.work.record import StepView
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.errors import ModelUnavailable
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import keeper, kept, told_of

SECRET = "sk-" + "a1B2" * 8
LONG = "a long line of a file\n" * 100


class Reader(Agent):
    """Reads files, and delegates where the text says so."""

    agent_id = "reader"
    capabilities = (Capability("reading", preferred=True),)

    @tool(idempotent=True)
    async def read(self, name: str) -> str:
        """Read a file."""
        if name == "secret":
            return f"api_key = {SECRET}"
        if name == "huge":
            return "word " * 6_000
        return f"{name}: {LONG}"


async def steps_of(mesh: MeshUnderTest, text: str = "Read it.") -> tuple[Client, str]:
    outcome = await mesh.ask("reader", text)
    return Client.local(mesh.mesh), outcome.task_id


def roles(view: StepView) -> list[str]:
    return [message["role"] for message in view.messages]


async def test_steps_show_what_was_told_said_called_and_given() -> None:
    model = ScriptedModel(tool_call("read", name="a"), "It says a.")
    async with mesh_for(Reader, model=model) as mesh:
        client, task_id = await steps_of(mesh)
        listed = await client.steps(task_id)
        assert [(step.path, step.kind, step.name, step.status) for step in listed] == [
            ("1", "context", "", "done"),
            ("2", "model", "scripted", "done"),
            ("3", "tool", "read", "done"),
            ("4", "model", "scripted", "done"),
        ]
        assert listed[1].calls == 1
        assert listed[1].cost_usd == 0
        assert listed[2].summary == "name=a -> lines: 100"
        assert listed[3].summary == "It says a."
        assert all(step.ended_at is not None and step.duration_ms is not None for step in listed[1:])
        first, called, last = [await client.step(task_id, path) for path in ("2", "3", "4")]
    said = first.messages
    assert [message["content"] for message in said] == [m.content for m in model.requests[0].messages]
    assert first.new_messages == 2
    assert first.request is not None
    assert [spec["name"] for spec in first.request["tools"]] == ["read", "remember", "recall"]
    assert first.request["tools"] == [spec.model_dump(mode="json") for spec in model.requests[0].tools]
    assert first.request["params"] == {} and first.request["max_tokens"] == model.requests[0].max_tokens
    assert first.reply is not None
    assert first.reply["tool_calls"][0]["name"] == "read"
    assert (called.arguments, called.result) == ('{"name": "a"}', f"a: {LONG}")
    assert roles(last) == ["system", "user", "assistant", "tool"]
    assert last.messages[3]["content"] == f"a: {LONG}" == model.requests[1].messages[3].content
    assert (last.new_messages, last.request) == (2, first.request)
    assert last.reply == {"content": "It says a."}


async def test_transcript_exports_each_message_once() -> None:
    model = ScriptedModel(*(tool_call("read", name=name) for name in "abc"), "All read.")
    async with mesh_for(Reader, model=model) as mesh:
        client, task_id = await steps_of(mesh)
        exported = [step async for step in client.transcript(task_id)]
    models = [step for step in exported if step.kind == "model"]
    assert [len(step.messages) for step in models] == [2, 2, 2, 2]
    assert [(step.request or {}).get("since") for step in models] == [None, "2", "4", "6"]
    assert [(step.request or {}).get("same", 0) for step in models] == [0, 2, 4, 6]


async def test_journal_keeps_each_result_of_a_tool_once() -> None:
    model = ScriptedModel(tool_call("read", name="a"), "Read.")
    async with mesh_for(Reader, model=model) as mesh:
        receipt = await mesh.submit(agent_id="reader", payload={"text": "Read it."}, thread_id="t1")
        await mesh.outcome(receipt.task_id)
        ref = ActorRef("reader", "default:t1")
        records = await mesh.mesh.runtime.records(ref, f"steps/{receipt.task_id}/1/1")
    assert sum("a long line" in str(stored.value) for stored in records) == 1


async def test_secrets_are_redacted_and_long_texts_cut() -> None:
    model = ScriptedModel(tool_call("read", name="secret"), tool_call("read", name="huge"), "Read.")
    async with mesh_for(Reader, model=model) as mesh:
        client, task_id = await steps_of(mesh)
        everything = [step async for step in client.transcript(task_id)]
        listed = await client.steps(task_id)
        short = await client.step(task_id, "5", max_chars=200)
    assert SECRET not in str(everything) + str(listed)
    assert "[redacted]" in str(everything)
    assert isinstance(short.result, str)
    assert short.result.endswith("[cut: the first 200 of 30,000 characters]")


async def test_failed_call_of_a_model_shows_the_reason() -> None:
    refusal = ModelUnavailable("openai answered 404: the model gpt-9 does not exist")
    async with mesh_for(Reader, model=ScriptedModel(*[refusal] * 9)) as mesh:
        receipt = await mesh.submit(agent_id="reader", payload={"text": "x"})
        outcome = await mesh.mesh.get(Tasks).outcome(receipt.task_id)
        client = Client.local(mesh.mesh)
        last = (await client.steps(receipt.task_id))[-1]
        view = await client.step(receipt.task_id, last.path)
    assert not outcome.success
    assert (last.kind, last.status) == ("model", "failed")
    assert "the model gpt-9 does not exist" in (last.error or "")
    assert roles(view) == ["system", "user"]


async def test_resumed_run_has_one_transcript(tmp_path: Path) -> None:
    first, first_model = keeper(), ScriptedModel(tool_call("hold"))
    async with kept(tmp_path, first, model=first_model) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="keeper", payload={"text": "Do it."}))
        await first.began.wait()
        listed = await Client.local(mesh).steps(receipt.task_id)
        assert [step.kind for step in listed] == ["context", "model"]
    second = keeper(opened=True)
    async with kept(tmp_path, second, model=ScriptedModel("Done.")) as mesh:
        await mesh.get(Tasks).outcome(receipt.task_id)
        views = [step async for step in Client.local(mesh).transcript(receipt.task_id)]
        last = await Client.local(mesh).step(receipt.task_id, "4")
    assert [step.kind for step in views] == ["context", "model", "tool", "model"]
    assert roles(last) == ["system", "user", "assistant", "tool"]
    assert last.messages[-1]["content"] == "held"
    assert (last.request or {}).get("tools")


async def test_side_by_side_questions_have_each_their_messages() -> None:
    class Asker(Agent):
        agent_id = "asker"
        capabilities = (Capability("asking"),)

        async def run(self, run: Run) -> str:
            await run.progress("begins")
            answers = await run.gather(run.ask("First?"), run.ask("Second?"), run.step("own", self.own))
            return " ".join(map(str, answers))

        async def own(self) -> list[int]:
            return [1, 2]

    def reply(request: ModelRequest) -> ModelReply:
        return ModelReply(content=f"to {request.messages[-1].content}", model="scripted")

    async with mesh_for(Asker, model=ScriptedModel(reply, reply)) as mesh:
        outcome = await mesh.ask("asker", "Go.")
        client = Client.local(mesh.mesh)
        listed = await client.steps(outcome.task_id)
        asked = [step.path for step in listed if step.kind == "model"]
        views = [await client.step(outcome.task_id, path) for path in asked]
    assert len({step.path for step in listed}) == len(listed)
    assert (listed[0].name, listed[0].summary) == ("progress", "begins")
    assert [step.summary for step in listed if step.name == "own"] == ["[1, 2]"]
    assert sorted(view.messages[-1]["content"] for view in views) == ["First?", "Second?"]
    for view in views:
        assert view.reply == {"content": f"to {view.messages[-1]['content']}"}


async def test_delegation_shows_the_other_task() -> None:
    class Lead(Agent):
        agent_id = "lead"
        capabilities = (Capability("leading"),)
        delegates_to = ("reader",)

        async def run(self, run: Run) -> str:
            return await run.delegate("reader", "Read it.")

    async with mesh_for(Lead, Reader, model=ScriptedModel("Read.")) as mesh:
        outcome = await mesh.ask("lead", "Go.")
        client = Client.local(mesh.mesh)
        [step] = await client.steps(outcome.task_id)
        child = await client.steps(step.child_task_id or "")
    assert (step.kind, step.name, step.status, step.summary) == ("delegate", "reader", "done", "Read.")
    assert [below.kind for below in child] == ["context", "model"]


async def test_unknown_steps_attempts_and_tasks_are_refused_with_what_there_is() -> None:
    async with mesh_for(Reader, model=ScriptedModel("Done.")) as mesh:
        client, task_id = await steps_of(mesh)
        with pytest.raises(NotFound, match=r"no step '9'; it has 1 to 2"):
            await client.step(task_id, "9")
        with pytest.raises(InvalidInput, match="no attempt 4") as refused:
            await client.steps(task_id, attempt=4)
        assert "1 to 1" in refused.value.remedy
        with pytest.raises(NotFound, match="There is no task 'nope'"):
            await client.steps("nope")


async def test_waiting_step_shows_the_question(tmp_path: Path) -> None:
    began = asyncio.Event()

    class Deployer(Agent):
        agent_id = "deployer"
        capabilities = (Capability("deploying"),)

        @tool
        async def deploy(self, to: str) -> str:
            """Deploy."""
            began.set()
            await asyncio.Event().wait()
            return to

    model = ScriptedModel(tool_call("deploy", to="production"))
    async with kept(tmp_path, Deployer, model=model) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="deployer", payload={"text": "Go."}))
        await began.wait()
    async with kept(tmp_path, Deployer, model=ScriptedModel()) as mesh:
        await told_of(mesh, "task.waiting")
        last = (await Client.local(mesh).steps(receipt.task_id))[-1]
    assert (last.kind, last.name, last.status) == ("tool", "deploy", "waiting")
    assert "was running" in last.summary


def test_large_texts_and_files_are_not_kept_whole() -> None:
    def content_of(text: str) -> str:
        request = ModelRequest(messages=(ChatMessage(role="user", content=text),), user="reader")
        return SentMessages(max_chars=1_000).record_request(request)["messages"][0]["content"]

    assert content_of("word " * 400).endswith("[not kept: 1,000 more characters]")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000}}
    shown = ChatMessage(role="user", content="Look.", parts=(image,))
    request = ModelRequest(messages=(shown,), user="reader")
    [sent] = SentMessages(max_chars=1_000).record_request(request)["messages"]
    assert sent["content"] == "Look."
    assert sent["parts"][0]["image_url"]["url"].startswith("[data:image/png;base64, 5,022 characters, sha256")


@pytest.mark.far("hours of a mesh pass")
async def test_old_contents_are_deleted_and_their_figures_stay() -> None:
    clock = ManualClock()
    model = ScriptedModel(tool_call("read", name="a"), "Read.", "Read again.")
    async with mesh_for(Reader, model=model, clock=clock, keep_contents_days=0.045) as mesh:
        client, old = await steps_of(mesh)
        await mesh.advance(3_600)
        outcome = await mesh.ask("reader", "Once more.")
        await mesh.advance(3_700)
        pruned = await told_of(mesh.mesh, "contents.pruned")
        steps = await client.steps(old)
        view = await client.step(old, "2")
        kept_steps = await client.steps(outcome.task_id)
    assert pruned.payload["tasks"] == 1
    assert [(step.kind, step.status, step.has_contents) for step in steps if step.kind != "context"] == [
        ("model", "done", False),
        ("tool", "done", False),
        ("model", "done", False),
    ]
    assert (view.calls, view.model, view.messages) == (1, "scripted", ())
    assert "deleted" in view.notes[0]
    assert all(step.has_contents for step in kept_steps)


async def test_steps_say_when_they_began_and_how_long_they_took() -> None:
    class Sleeper(Agent):
        agent_id = "reader"
        capabilities = (Capability("reading"),)

        async def run(self, run: Run) -> str:
            await run.ask("What is due?")
            await run.step("nap", lambda: self.nap(run))
            return "Rested."

        async def nap(self, run: Run) -> None:
            await run.sleep(hours=1)

    clock = ManualClock()
    async with mesh_for(Sleeper, model=ScriptedModel("Rest."), clock=clock) as mesh:
        began = clock.now()
        receipt = await mesh.submit(agent_id="reader", payload={"text": "Rest."})
        async with asyncio.timeout(240):
            while not mesh.events("task.waiting"):
                await asyncio.sleep(0)
        waiting = await Client.local(mesh.mesh).steps(receipt.task_id)
        await mesh.advance(3_600)
        await mesh.outcome(receipt.task_id)
        listed = await Client.local(mesh.mesh).steps(receipt.task_id)
    hour = timedelta(hours=1)
    assert [(step.path, step.status, step.started_at) for step in waiting[2:]] == [("3.1", "waiting", began)]
    assert {step.path: step.started_at for step in listed if step.kind != "model"} == dict.fromkeys(
        ("1", "3", "3.1"), began
    )
    assert listed[1].started_at == began - timedelta(milliseconds=listed[1].duration_ms or 0)
    assert listed[0].duration_ms == 0  # by the clock of the mesh
    assert {step.path: (step.duration_ms, step.ended_at) for step in listed[2:]} == dict.fromkeys(
        ("3", "3.1"), (3_600_000, began + hour)
    )


def test_records_without_times_have_those_of_their_events() -> None:
    ended = datetime(2026, 1, 1, tzinfo=UTC)
    payload = {"path": "1", "step": 1, "attempt": 1, "duration_ms": 2_000.0, "outcome": "ok"}
    called = Event(id="e", event_type="model.called", topic="task-progress", time=ended, payload=payload)
    record = {"path": "1", "number": 1, "kind": "model", "hash": "", "result": {"content": "", "usage": {}}}
    stored = Record(ActorRef("reader", "default:t"), "steps/t/1/1", 1, record)
    step = Transcript("t", 1, "reader", [stored], [called]).summary("1")
    assert (step.started_at, step.ended_at) == (ended - timedelta(seconds=2), ended)
    assert Transcript("t", 1, "reader", [stored]).summary("1").started_at is None


async def test_steps_that_raised_an_error_are_listed_with_it() -> None:
    class Careless(Agent):
        agent_id = "reader"
        capabilities = (Capability("reading"),)

        async def run(self, run: Run) -> str:
            for _ in range(2):
                with suppress(ValueError):
                    await run.step("fetch", self.fetch)
            await run.sleep(hours=1)
            return "Done."

        async def fetch(self) -> str:
            raise ValueError(f"refused, with api_key = {SECRET}")

    async with mesh_for(Careless, model=ScriptedModel(), clock=ManualClock()) as mesh:
        receipt = await mesh.submit(agent_id="reader", payload={"text": "Read it."})
        async with asyncio.timeout(240):
            while not mesh.events("task.waiting"):
                await asyncio.sleep(0)
        await mesh.advance(3_600)
        assert (await mesh.outcome(receipt.task_id)).text == "Done."
        client = Client.local(mesh.mesh)
        listed = await client.steps(receipt.task_id)
        shown = await client.step(receipt.task_id, "1")
    assert [(step.path, step.name, step.status) for step in listed] == [
        ("1", "fetch", "failed"),
        ("2", "fetch", "failed"),
        ("3", "sleep", "done"),
    ]
    assert shown.error == "ValueError: refused, with api_key = [redacted]"
    assert listed[0].summary == shown.error
    assert listed[0].started_at is not None
    assert shown.notes == ()


async def test_steps_pass_over_a_call_that_a_budget_booked_and_that_names_no_path() -> None:
    async with mesh_for(Reader, model=ScriptedModel("Done.")) as mesh:
        client, task_id = await steps_of(mesh)
        before = await client.steps(task_id)
        cut = {"step": 1, "attempt": 1, "outcome": "cut", "cost_usd": "0.5"}
        mesh.mesh.tell("model.called", cut, task_id=task_id, tenant_id="default")
        await mesh.mesh.runtime.emit([])
        assert await client.steps(task_id) == before
