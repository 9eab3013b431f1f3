"""A run: its context, the talk of model and tools, its ends, delegation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, TaskRequest, ToolFailed, tool
from meshwright.envelope import ActorRef
from meshwright.messages import Caller, Usage
from meshwright.models.port import ModelRefused, ModelReply, ModelRequest, ToolCall
from meshwright.run import Run
from meshwright.testing import ScriptedModel, mesh_for, tool_call


class Clerk(Agent):
    """Looks things up, and can fail at it."""

    agent_id = "clerk"
    capabilities = (Capability("clerking"),)
    looked_up: list[str] = []  # noqa: RUF012 each test's clerk has its own

    @tool(idempotent=True)
    async def look_up(self, word: str, page: int = 1) -> str:
        """Look a word up."""
        self.looked_up.append(word)
        if word == "nothing":
            raise ToolFailed("there is no such word")
        if word == "trouble":
            raise ValueError("the book is torn")
        return f"{word} is on page {page}"


@pytest.fixture
def clerk() -> type[Clerk]:
    return type("TestClerk", (Clerk,), {"looked_up": []})


def told(model: ScriptedModel) -> list[str]:
    """What the tools answered, as the model was last told."""
    return [message.content for message in model.requests[-1].messages if message.role == "tool"]


# The talk of model and tools


async def test_what_tools_answer_is_told_to_the_model_call_by_call(clerk: type[Clerk]) -> None:
    calls = [tool_call("look_up", word="fence"), tool_call("look_up", word="slot", page=2)]
    model = ScriptedModel(calls, tool_call("look_up", word="turn"), "Found them all.")
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "Where are they?")
    assert outcome.text == "Found them all."
    assert told(model) == ["fence is on page 1", "slot is on page 2", "turn is on page 1"]
    asked = [call.id for message in model.requests[-1].messages for call in message.tool_calls]
    answered = [message.tool_call_id for message in model.requests[-1].messages if message.role == "tool"]
    assert asked == answered
    assert clerk.looked_up == ["fence", "slot", "turn"]


async def test_after_the_last_step_the_model_must_answer_without_tools(clerk: type[Clerk]) -> None:
    model = ScriptedModel(*(tool_call("look_up", word=word) for word in "abc"), "That is all I found.")
    async with mesh_for(clerk, model=model, max_steps=3) as mesh:
        outcome = await mesh.ask("clerk", "Find everything.")
    assert outcome.text == "That is all I found."
    assert [bool(request.tools) for request in model.requests] == [True, True, True, False]
    assert "no more tools" in model.requests[-1].messages[-1].content
    assert clerk.looked_up == ["a", "b", "c"]


async def test_a_model_that_never_answers_fails_its_task(clerk: type[Clerk]) -> None:
    model = ScriptedModel(*(tool_call("look_up", word=word) for word in "abc"))
    async with mesh_for(clerk, model=model, max_steps=2) as mesh:
        outcome = await mesh.ask("clerk", "Find everything.")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "never answers" in outcome.error.message
    assert clerk.looked_up == ["a", "b"]


async def test_a_call_that_is_repeated_is_not_run_again_and_is_the_last(clerk: type[Clerk]) -> None:
    again = ToolCall(id="", name="look_up", arguments='{ "page": 1, "word": "fence" }')
    model = ScriptedModel(tool_call("look_up", word="fence", page=1), again, "Page 1, as I said.")
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
    assert outcome.text == "Page 1, as I said."
    assert clerk.looked_up == ["fence"]
    assert "called this already" in told(model)[1]
    assert model.requests[-1].tools == ()


async def test_a_call_that_is_made_twice_at_once_is_run_once(clerk: type[Clerk]) -> None:
    model = ScriptedModel([tool_call("look_up", word="fence")] * 2, "Page 1.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "Page 1."
    assert clerk.looked_up == ["fence"]


async def test_a_tool_that_does_not_exist_is_told_with_those_that_do(clerk: type[Clerk]) -> None:
    model = ScriptedModel(tool_call("fly", to="Rome"), "I cannot fly.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Fly.")).text == "I cannot fly."
    [answer] = told(model)
    assert "there is no tool 'fly'" in answer
    assert "look_up" in answer


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ('{"word": "fen', "look_up was not run"),
        ("", "look_up was not run"),
        ("[]", "look_up was not run"),
        ("{}", "word: Field required"),
        ('{"word": 7}', "word: Input should be a valid string"),
        ('{"word": "fence", "book": 2}', "book: Extra inputs are not permitted"),
    ],
)
async def test_malformed_arguments_are_never_run_and_are_told(
    clerk: type[Clerk], arguments: str, complaint: str
) -> None:
    model = ScriptedModel(ToolCall(id="", name="look_up", arguments=arguments), "I was wrong.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "I was wrong."
        [called] = mesh.events("tool.called").payloads
    assert clerk.looked_up == []
    assert complaint in told(model)[0]
    assert (called["ok"], complaint in called["error"]) == (False, True)


@pytest.mark.parametrize(
    ("word", "said"), [("nothing", "there is no such word"), ("trouble", "ValueError: the book is torn")]
)
async def test_what_a_tool_failed_at_is_told_and_the_run_goes_on(
    clerk: type[Clerk], word: str, said: str
) -> None:
    model = ScriptedModel(tool_call("look_up", word=word), "It is not there.")
    async with mesh_for(clerk, model=model) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "It is not there."
    assert said in told(model)[0]


async def test_a_model_that_refuses_fails_the_attempt_with_its_reason(clerk: type[Clerk]) -> None:
    model = ScriptedModel(ModelRefused("this is not a question"))
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "?")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("ModelRefused", "this is not a question")


# What is known of it afterwards


async def test_an_outcome_says_which_model_and_sums_up_what_it_cost(clerk: type[Clerk]) -> None:
    def reply(**fields: Any) -> ModelReply:
        usage = Usage(prompt_tokens=100, completion_tokens=10)
        return ModelReply(model="big-1", usage=usage, cost_usd=0.25, **fields)

    asks = reply(tool_calls=(ToolCall(id="c1", name="look_up", arguments='{"word": "fence"}'),))
    async with mesh_for(clerk, model=ScriptedModel(asks, reply(content="Page 1."))) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        [ended] = mesh.events("attempt.ended")
    assert (outcome.model, outcome.cost_usd) == ("big-1", 0.5)
    assert outcome.usage == Usage(prompt_tokens=200, completion_tokens=20)
    assert (outcome.agent_id, outcome.capability, outcome.attempt) == ("clerk", "clerking", 1)
    assert ended.payload["usage"]["prompt_tokens"] == 200


async def test_the_road_of_a_task_is_told_in_order(clerk: type[Clerk]) -> None:
    model = ScriptedModel(tool_call("look_up", word="fence"), "Page 1.")
    async with mesh_for(clerk, model=model) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        names = [event.event_type for event in mesh.events(task_id=outcome.task_id)]
        compressed = mesh.events("context.compressed").payloads[0]
        called = mesh.events("model.called").payloads[0]
    assert [name for name in names if name != "trace.spans"] == [
        "task.accepted",
        "task.dispatched",
        "task.started",
        "context.compressed",
        "model.called",
        "tool.called",
        "model.delta",
        "model.called",
        "attempt.ended",
        "task.succeeded",
    ]
    assert compressed["method"] == "deterministic"
    assert compressed["input_tokens"] > 0
    assert compressed["output_tokens"] > 0
    assert (called["user"], called["model"], called["tool_calls"]) == ("clerk", "scripted", ["look_up"])


async def test_tags_come_from_the_agent_or_else_from_its_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    prompt = "---\ndescription: d\nmodel: fast\ntags: [cheap]\nvariables: [context]\n---\n{{context}}\n"
    for name in ("plain", "choosy"):
        (tmp_path / "prompts" / f"{name}.prompt").write_text(prompt)

    class Plain(Agent):
        agent_id = "plain"
        capabilities = (Capability("plainness"),)

    class Choosy(Agent):
        agent_id = "choosy"
        capabilities = (Capability("choice"),)

        def tags(self, task: Any) -> list[str]:
            return ["expensive" if "hard" in task.text else "easy"]

    model = ScriptedModel("a", "b")
    async with mesh_for(Plain, Choosy, model=model, project=tmp_path) as mesh:
        await mesh.ask("plain", "Something hard.")
        await mesh.ask("choosy", "Something hard.")
        payloads = mesh.events("model.called").payloads
    assert [(request.user, request.tags, request.model) for request in model.requests] == [
        ("plain", ("cheap",), "fast"),
        ("choosy", ("expensive",), "fast"),
    ]
    assert [payload["tags"] for payload in payloads] == [["cheap"], ["expensive"]]


# History and memory


def system_of(request: ModelRequest) -> str:
    return request.messages[0].content


async def test_a_thread_remembers_what_was_said_in_it_and_no_other_does(clerk: type[Clerk]) -> None:
    model = ScriptedModel("The capital is Lima.", "It is Lima, as I said.", "Which country?", "Which one?")
    async with mesh_for(clerk, model=model) as mesh:
        await mesh.ask("clerk", "What is Peru's capital?", thread_id="talk")
        await mesh.ask("clerk", "Say it again.", thread_id="talk")
        await mesh.ask("clerk", "Say it again.", thread_id="other")
        await mesh.ask("clerk", "Say it again.")
    second, third, fourth = map(system_of, model.requests[1:])
    assert "What is Peru's capital?" in second
    assert "The capital is Lima." in second
    assert "Lima" not in third + fourth


async def test_a_failed_task_leaves_nothing_in_its_thread(clerk: type[Clerk]) -> None:
    model = ScriptedModel(ModelRefused("no"), "Fine.")
    async with mesh_for(clerk, model=model) as mesh:
        await mesh.ask("clerk", "Tell me a secret.", thread_id="talk")
        await mesh.ask("clerk", "How are you?", thread_id="talk")
    assert "secret" not in system_of(model.requests[1])


async def test_a_task_without_a_thread_keeps_no_history(clerk: type[Clerk]) -> None:
    async with mesh_for(clerk, model=ScriptedModel("Fine.")) as mesh:
        outcome = await mesh.ask("clerk", "How are you?")
        ref = ActorRef("clerk", f"default:{outcome.task_id}")
        assert await mesh.mesh.host.records(ref, "history") == []


async def test_what_an_agent_remembers_is_recalled_in_a_later_run(clerk: type[Clerk]) -> None:
    memory = "The customer Amélie prefers trains to planes."
    model = ScriptedModel(tool_call("remember", text=memory, scope="agent"), "Noted.", "By train.")
    async with mesh_for(clerk, model=model) as mesh:
        await mesh.ask("clerk", "Amélie likes trains.")
        assert not mesh.events("memory.recalled")
        await mesh.ask("clerk", "How does the customer Amélie travel?")
        assert len(mesh.events("memory.stored")) == 1
        [recalled] = mesh.events("memory.recalled").payloads
    assert memory in system_of(model.requests[2])
    assert (recalled["count"], recalled["tokens"] > 0) == (1, True)


async def test_a_memory_stays_with_its_tenant(clerk: type[Clerk]) -> None:
    model = ScriptedModel(
        tool_call("remember", text="The password hint is trains.", scope="global"), "a", "b"
    )
    async with mesh_for(clerk, model=model) as mesh:
        for tenant in ("one", "two"):
            request = TaskRequest(agent_id="clerk", payload={"text": "What is the password hint?"})
            receipt = await mesh.mesh.submit(request, Caller(tenant_id=tenant))
            await mesh.mesh.outcome(receipt.task_id, tenant)
        assert not mesh.events("memory.recalled")
    assert "trains" not in system_of(model.requests[-1])


async def test_an_agent_may_remember_more_than_one_thing_in_its_own_run() -> None:
    class Diarist(Agent):
        agent_id = "diarist"
        capabilities = (Capability("diaries"),)

        async def run(self, run: Run) -> str:
            if run.task.text == "remember":
                await run.remember("Breakfast was porridge with honey.", "agent")
                await run.remember("Supper was onion soup.", "agent")
            return (await run.prepare()).system

    async with mesh_for(Diarist) as mesh:
        await mesh.ask("diarist", "remember")
        system = (await mesh.ask("diarist", "What were breakfast and supper?")).text
    assert "porridge" in system
    assert "onion soup" in system


# Ends before the time


def holding(agent: str = "holder", **fields: Any) -> tuple[type[Agent], asyncio.Event, asyncio.Event]:
    """An agent that hangs in its run; tells when it began, and when it was told to stop."""
    began, stopped = asyncio.Event(), asyncio.Event()

    async def run(self: Agent, run: Run) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    given = {"agent_id": agent, "capabilities": (Capability("holding"),), "run": run, **fields}
    return type("Holder", (Agent,), given), began, stopped


async def test_a_cancelled_run_is_stopped_and_its_thread_goes_on() -> None:
    holder, began, stopped = holding()
    async with mesh_for(holder) as mesh:
        receipt = await mesh.submit(agent_id="holder", payload={"text": "Hold."}, thread_id="one")
        await began.wait()
        await mesh.mesh.cancel(receipt.task_id)
        outcome = await mesh.outcome(receipt.task_id)
        assert stopped.is_set()
        began.clear()
        await mesh.submit(agent_id="holder", payload={"text": "Again."}, thread_id="one")
        await began.wait()
        await mesh.mesh.stop(drain_seconds=0)
    assert (outcome.status, outcome.success) == ("cancelled", False)
    assert outcome.error is not None


async def test_an_attempt_that_takes_too_long_is_stopped_and_timed_out() -> None:
    holder, _, stopped = holding()
    async with mesh_for(holder) as mesh:
        receipt = await mesh.submit(agent_id="holder", payload={"text": "Hold."}, timeout=0.01, deadline=60)
        outcome = await mesh.outcome(receipt.task_id)
    assert stopped.is_set()
    assert (outcome.status, outcome.success) == ("timed_out", False)
    assert outcome.error is not None
    assert outcome.error.type == "Timeout"
    assert "0.01 seconds" in outcome.error.message


async def test_an_attempt_that_takes_too_long_is_made_again_by_another_agent() -> None:
    class Quick(Agent):
        agent_id = "quick"
        capabilities = (Capability("holding"),)

        async def run(self, run: Run) -> str:
            return "Here I am."

    holder, _, _ = holding(capabilities=(Capability("holding", preferred=True),))
    async with mesh_for(holder, Quick) as mesh:
        receipt = await mesh.submit(
            capability="holding", payload={"text": "Hello?"}, timeout=0.5, deadline=60
        )
        assert receipt.dispatched_to == "holder"
        outcome = await mesh.outcome(receipt.task_id)
        first, second = (await mesh.mesh.task(receipt.task_id)).attempts
    assert (outcome.status, outcome.agent_id, outcome.attempt) == ("succeeded", "quick", 2)
    assert first.error is not None
    assert (first.error.type, second.error) == ("Timeout", None)


async def test_a_run_that_waited_in_between_has_no_more_time_than_any_other() -> None:
    timeout = 0.1

    async def most_of_the_time() -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.6 * timeout
        while loop.time() < end:
            await asyncio.sleep(0)

    class Quick(Agent):
        agent_id = "quick"
        capabilities = (Capability("quickness"),)

        async def run(self, run: Run) -> str:
            return "done"

    class Slow(Agent):
        agent_id = "slow"
        capabilities = (Capability("slowness"),)
        delegates_to = ("quick",)

        async def run(self, run: Run) -> str:
            await run.step("before", most_of_the_time)
            await run.delegate("quick", "Do it.")
            await run.step("after", most_of_the_time)
            return "done"

    async with mesh_for(Slow, Quick) as mesh:
        receipt = await mesh.submit(agent_id="slow", payload={"text": "Do it."}, timeout=timeout)
        outcome = await mesh.outcome(receipt.task_id)
    assert outcome.status == "timed_out"


def raising(error: BaseException) -> type[Agent]:
    class Raising(Agent):
        agent_id = "raising"
        capabilities = (Capability("raising"),)

        async def run(self, run: Run) -> str:
            if run.task.text == "raise":
                raise error
            return "fine"

    return Raising


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of range"),
        TimeoutError("the other server took too long"),
        asyncio.CancelledError("a task of its own"),
        SystemExit(3),
    ],
)
async def test_whatever_an_agents_code_raises_is_the_outcome_of_its_attempt(error: BaseException) -> None:
    async with mesh_for(raising(error)) as mesh:
        outcome = await mesh.ask("raising", "raise", thread_id="one")
        assert (await mesh.ask("raising", "go on", thread_id="one")).text == "fine"
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.type == type(error).__name__
    assert outcome.error.message == str(error)


# Delegation


def delegating(agent_id: str, *to: str) -> type[Agent]:
    """An agent whose model may delegate; by the word "to X: ..." it delegates without asking a model."""

    async def run(self: Agent, run: Run) -> str:
        if not run.task.text.startswith("to "):
            return await run.converse()
        other, _, text = run.task.text.removeprefix("to ").partition(": ")
        return await run.delegate(other, text)

    fields = {"agent_id": agent_id, "capabilities": (Capability(f"c-{agent_id}"),), "delegates_to": to}
    return type(agent_id.title(), (Agent,), {**fields, "run": run})


async def test_a_delegated_answer_comes_back_and_the_child_knows_its_parent() -> None:
    async with mesh_for(delegating("a", "b"), delegating("b"), model=ScriptedModel("From b.")) as mesh:
        outcome = await mesh.ask("a", "to b: What do you say?")
        [waiting] = mesh.events("task.waiting").payloads
        child = await mesh.mesh.task(waiting["child_task_id"])
    assert outcome.text == "From b."
    assert (child.parent_task_id, child.requested_by, child.chain) == (outcome.task_id, "a", ("a",))
    assert child.payload == {"text": "What do you say?"}


async def test_what_a_child_failed_at_is_told_to_its_parents_model() -> None:
    model = ScriptedModel()
    model.replies(tool_call("delegate", agent_id="b", text="Do it."), "b could not.", to="a")
    model.replies(ModelRefused("too hard"), to="b")
    async with mesh_for(delegating("a", "b"), delegating("b"), model=model) as mesh:
        assert (await mesh.ask("a", "Have it done.")).text == "b could not."
    assert "b did not succeed: too hard" in told(model)[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("to c: Hello", "a may not delegate to 'c', only to b"),
        ("to b: to a: Hello", "a already waits for this answer: a -> b"),
        ("to b: to c: to d: Hello", "delegation is 3 deep already: a -> b -> c"),
    ],
)
async def test_delegation_has_limits(text: str, complaint: str) -> None:
    agents = delegating("a", "b"), delegating("b", "a", "c"), delegating("c", "d"), delegating("d")
    async with mesh_for(*agents, max_chain=2) as mesh:
        outcome = await mesh.ask("a", text)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert complaint in outcome.error.message


async def test_a_model_may_name_only_those_that_its_agent_may_ask() -> None:
    model = ScriptedModel(tool_call("delegate", agent_id="c", text="Hello"), "I may not.")
    async with mesh_for(delegating("a", "b"), delegating("b"), delegating("c"), model=model) as mesh:
        assert (await mesh.ask("a", "Greet c.")).text == "I may not."
        assert not mesh.events("task.waiting")
    assert "delegate was not run: agent_id" in told(model)[0]
