"""The limits of a run: at each the model is asked once for its answer, and then the task fails."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, LimitReached, Limits, Run, TaskRequest, tool
from meshwright.core.errors import ConfigError
from meshwright.core.messages import Usage
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ManualClock, MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import kept
from tests.support.lookup_agent import a_clerk, tool_answers


def asks(word: str, **fields: Any) -> ModelReply:
    """A reply that looks a word up."""
    call = tool_call("look_up", word=word).model_copy(update={"id": f"call_{word}"})
    return ModelReply(model="m", tool_calls=(call,), finish_reason="tool_calls", **fields)


COSTLY = {"usage": Usage(prompt_tokens=90, completion_tokens=10), "cost_usd": Decimal("0.01")}
LIMITS: list[tuple[str, Any, str]] = [
    ("max_steps", 3, "limit.steps"),
    ("max_tokens", 300, "limit.tokens"),
    ("max_usd", Decimal("0.03"), "limit.money"),
]


def limit_events(mesh: MeshUnderTest) -> list[str]:
    return [event.event_type for event in mesh.events() if event.event_type.startswith("limit.")]


@pytest.mark.parametrize(("name", "most", "event_type"), LIMITS)
async def test_at_a_limit_the_model_must_answer_without_tools(name: str, most: Any, event_type: str) -> None:
    clerk = a_clerk()
    model = ScriptedModel(*(asks(word, **COSTLY) for word in "abc"), "That is all I found.")
    async with mesh_for(clerk, model=model, agents={name: most}) as mesh:
        outcome = await mesh.ask("clerk", "Find everything.")
        assert limit_events(mesh) == [event_type]
        [reached] = mesh.events(event_type).payloads
    assert (outcome.text, outcome.limit) == ("That is all I found.", name)
    assert [bool(request.tools) for request in model.requests] == [True, True, True, False]
    assert "no more tools" in model.requests[-1].messages[-1].content
    assert clerk.looked_up == ["a", "b", "c"]
    assert (reached["limit"], reached["setting"]) == (name, f"{name} in [agents] of mesh.toml")
    assert (reached["ends"], str(reached["most"])) == ("tools", str(most))


@pytest.mark.parametrize(("name", "most", "_"), LIMITS)
async def test_a_model_that_never_answers_fails_its_task(name: str, most: Any, _: str) -> None:
    model = ScriptedModel(*(asks(word, **COSTLY) for word in "abcd"))
    async with mesh_for(a_clerk(), model=model, agents={name: most}) as mesh:
        outcome = await mesh.ask("clerk", "Find everything.")
    assert outcome.error is not None
    assert outcome.error.type == "LimitReached"
    assert f"clerk reached {name} ({most})" in outcome.error.message
    assert f"Raise {name} in [agents] of mesh.toml" in outcome.error.message


async def test_a_limit_that_its_caller_set_does_not_count_against_the_agent() -> None:
    model = ScriptedModel(*(asks(word, **COSTLY) for word in "abcd"))
    async with mesh_for(a_clerk(), model=model) as mesh:
        receipt = await mesh.submit(agent_id="clerk", payload={"text": "Find it."}, limits={"max_steps": 1})
        outcome = await mesh.outcome(receipt.task_id)
        [failed] = mesh.events("attempt.failed").payloads
    assert outcome.error is not None
    assert (outcome.error.type, failed["fault"]) == ("TaskLimitReached", "caller")


async def test_the_time_of_model_and_tools_is_a_limit() -> None:
    model = ScriptedModel(asks("fence"), "Page 1.")
    async with mesh_for(a_clerk(), model=model, agents={"max_seconds": 1e-6}) as mesh:
        assert (await mesh.ask("clerk", "Where is it?")).text == "Page 1."
        [reached] = mesh.events("limit.time").payloads
    assert reached["limit"] == "max_seconds"
    assert model.requests[-1].tools == ()


async def test_the_same_results_of_the_same_calls_in_a_row_end_the_tools() -> None:
    clerk = a_clerk()
    again = asks("fence").tool_calls[0].model_copy(update={"arguments": '{ "word": "fence" }'})
    model = ScriptedModel(asks("fence"), again, asks("fence"), "Page 1, as I said.")
    async with mesh_for(clerk, model=model, agents={"max_repeats": 3}) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        [reached] = mesh.events("limit.no_progress").payloads
    assert outcome.text == "Page 1, as I said."
    assert clerk.looked_up == ["fence"] * 3
    assert (reached["limit"], reached["most"]) == ("max_repeats", 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            tool_call("look_upp", word="fence"),
            "and its model repeats a call of look_upp that fails: there is no tool 'look_upp'; there are "
            "look_up, remember, recall. Say in its prompt which tools there are, or name another model",
        ),
        (
            ToolCall(id="1", name="look_up", arguments="{}"),
            "look_up was not run: word: Field required. send one JSON object with: word, page. Say in the "
            "description of look_up which arguments it takes, or name another model",
        ),
        (tool_call("look_up", word="nothing"), "there is no such word. Repair look_up, or say in its prompt"),
    ],
)
async def test_repeated_calls_that_fail_are_named_with_their_error(call: ToolCall, said: str) -> None:
    model = ScriptedModel(*[call] * 4)
    async with mesh_for(a_clerk(), model=model, agents={"max_repeats": 3}) as mesh:
        outcome = await mesh.ask("clerk", "Where is it?")
        failed = mesh.events("tool.called").payloads
    assert outcome.error is not None
    assert said in outcome.error.message
    assert "Raise max_repeats" not in outcome.error.message
    assert [(event["tool"], event["ok"], bool(event["error"])) for event in failed] == [
        (call.name, False, True)
    ] * 3


async def test_another_call_between_is_progress() -> None:
    clerk = a_clerk()
    words = ["fence", "fence", "slot"] * 4
    model = ScriptedModel(*map(asks, words), "Done.")
    async with mesh_for(clerk, model=model, agents={"max_repeats": 3}) as mesh:
        assert (await mesh.ask("clerk", "Look.")).text == "Done."
        assert not limit_events(mesh)
    assert clerk.looked_up == words


async def test_polling_goes_on_far_beyond_a_dozen_looks() -> None:
    class Poller(Agent):
        agent_id = "poller"
        capabilities = (Capability("polling"),)
        looks = 0

        @tool(idempotent=True)
        async def status(self) -> str:
            """Tell the status."""
            type(self).looks += 1
            return "healthy" if self.looks > 20 else "pending"

    model = ScriptedModel(*[tool_call("status")] * 21, "It is healthy.")
    async with mesh_for(Poller, model=model) as mesh:
        assert (await mesh.ask("poller", "Wait until it is healthy.")).text == "It is healthy."
    assert tool_answers(model) == ["pending"] * 20 + ["healthy"]


async def test_steps_count_over_all_conversations_of_a_run() -> None:
    class Thrice(a_clerk()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            return ", ".join([await run.converse() for _ in range(3)])

    model = ScriptedModel(asks("a"), asks("b"), "one", asks("c"), "two", "three")
    async with mesh_for(Thrice, model=model, agents={"max_steps": 3}) as mesh:
        assert (await mesh.ask("clerk", "Find everything.")).text == "one, two, three"
        assert limit_events(mesh) == ["limit.steps"] * 2
    assert [bool(request.tools) for request in model.requests] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(("name", "most", "event_type"), LIMITS[1:])
async def test_no_conversation_begins_when_tokens_or_money_are_used_up(
    name: str, most: Any, event_type: str
) -> None:
    class Asker(Agent):
        agent_id = "asker"
        capabilities = (Capability("asking"),)

        async def run(self, run: Run) -> str:
            for _ in range(3):
                await run.ask("Again.")
            try:
                await run.ask("Once more.")
            except LimitReached as error:
                return f"{error.limit}: {error.message}"
            return "no limit"

    model = ScriptedModel(*[ModelReply(model="m", content="Yes.", **COSTLY)] * 4)
    async with mesh_for(Asker, model=model, agents={name: most}) as mesh:
        text = (await mesh.ask("asker", "Ask.")).text
        assert limit_events(mesh) == [event_type]
        [reached] = mesh.events(event_type).payloads
    assert text == f"{name}: asker reached {name} ({most}), and its model is not called again"
    assert (reached["ends"], model.unsaid) == ("calls", 1)


@pytest.mark.parametrize(("name", "most"), [("max_steps", 4), ("max_tokens", 400)])
async def test_a_resumed_run_decides_as_before_when_conversations_went_on_side_by_side(
    name: str, most: int
) -> None:
    class Both(a_clerk()):  # type: ignore[misc]
        async def run(self, run: Run) -> str:
            said = await run.gather(run.converse(), run.converse())
            await run.sleep(hours=1)
            return ", ".join([*said, await run.converse() if name == "max_steps" else "no more"])

    replies = [*(asks(word, **COSTLY) for word in "abcd"), "one", "two", "three"]
    model = ScriptedModel(*replies)
    async with mesh_for(Both, model=model, clock=ManualClock(), agents={name: most}) as mesh:
        receipt = await mesh.submit(agent_id="clerk", payload={"text": "Find everything."})
        async with asyncio.timeout(240):
            while not mesh.events("task.waiting"):
                await asyncio.sleep(0)
        assert limit_events(mesh) == [f"limit.{name.removeprefix('max_')}"]
        await mesh.advance(3_600)
        outcome = await mesh.outcome(receipt.task_id)
        assert len((await mesh.mesh.get(Tasks).task(receipt.task_id)).attempts) == 1
    assert outcome.success, outcome.error
    assert outcome.text == ("one, two, three" if name == "max_steps" else "one, two, no more")
    assert (sorted(Both.looked_up), [bool(request.tools) for request in model.requests[4:6]]) == (
        list("abcd"),
        [True, False],
    )


@pytest.mark.parametrize(
    ("own", "of_task", "steps", "setting"),
    [
        (None, None, 4, "max_steps in [agents] of mesh.toml"),
        (5, None, 5, "max_steps in the limits of Limited"),
        (5, 2, 2, "limits.max_steps of the task"),
        (5, 9, 5, "max_steps in the limits of Limited"),
        (None, 9, 4, "max_steps in [agents] of mesh.toml"),
    ],
)
async def test_an_agent_sets_its_own_limits_and_a_task_lowers_them(
    own: int | None, of_task: int | None, steps: int, setting: str
) -> None:
    class Limited(a_clerk()):  # type: ignore[misc]
        agent_id = "limited"
        limits = Limits(max_steps=own)

    model = ScriptedModel(*(asks(str(n)) for n in range(10)))
    request = TaskRequest(
        agent_id="limited",
        payload={"text": "Find everything."},
        limits=None if of_task is None else Limits(max_steps=of_task),
    )
    async with mesh_for(Limited, model=model, agents={"max_steps": 4}) as mesh:
        outcome = await mesh.outcome((await mesh.submit(request)).task_id)
    assert outcome.error is not None
    assert len(model.requests) == steps + 1
    assert setting in outcome.error.message


def test_limits_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"limits that are no Limits.*Limits\(max_steps=\.\.\.\)"):

        class Wrong(Agent):
            agent_id = "wrong"
            capabilities = (Capability("nothing"),)
            limits = "max_steps=3"  # type: ignore[assignment]


def many(calls: int) -> ModelReply:
    """A reply that looks so many words up at once."""
    asked = [tool_call("look_up", word=f"w{n}").model_copy(update={"id": f"call_{n}"}) for n in range(calls)]
    return ModelReply(model="m", tool_calls=tuple(asked), finish_reason="tool_calls")


@pytest.mark.parametrize(("settings", "most"), [({}, 64), ({"max_calls_per_reply": 3}, 3)])
async def test_the_calls_of_one_reply_are_limited(settings: dict[str, int], most: int) -> None:
    clerk = a_clerk()
    model = ScriptedModel(many(500), many(2), "That is all.")
    async with mesh_for(clerk, model=model, agents=settings) as mesh:
        outcome = await mesh.ask("clerk", "Find everything.")
        [refused] = mesh.events("calls.refused").payloads
        called = mesh.events("tool.called").payloads
    assert outcome.text == "That is all."
    assert sorted(clerk.looked_up) == sorted([*(f"w{n}" for n in range(most)), "w0", "w1"])
    assert (refused["calls"], refused["most"]) == (500 - most, most)
    assert len(called) == most + 2
    answers = [message.content for message in model.requests[1].messages if message.role == "tool"]
    assert len(answers) == 500
    assert ["not run: the reply had 500 calls" in answer for answer in answers] == [
        number >= most for number in range(500)
    ]


class Holder(Agent):
    """Has one tool whose fifth call waits until the test lets it go on, and then stops the mesh."""

    agent_id = "holder"
    capabilities = (Capability("holding"),)
    paid: list[int]
    began: asyncio.Event
    opened: asyncio.Event

    @tool(idempotent=True, exclusive=True)
    async def pay(self, number: int) -> str:
        """Pay a bill.

        Args:
            number: Which one.
        """
        if number == 4 and not self.opened.is_set():
            self.began.set()
            await self.opened.wait()
        self.paid.append(number)
        return f"{number} is paid"


@pytest.mark.parametrize("later", [2, 100])
async def test_a_resumed_run_refuses_the_same_calls(tmp_path: Path, later: int) -> None:
    fields: dict[str, Any] = {"paid": [], "began": asyncio.Event(), "opened": asyncio.Event()}
    holder = type("TestHolder", (Holder,), fields)
    bills = [tool_call("pay", number=n).model_copy(update={"id": f"call_{n}"}) for n in range(12)]
    reply = ModelReply(model="m", tool_calls=tuple(bills), finish_reason="tool_calls")
    async with kept(tmp_path, holder, model=ScriptedModel(reply), agents={"max_calls_per_reply": 8}) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="holder", payload={"text": "Pay."}))
        await holder.began.wait()
    holder.opened.set()
    model = ScriptedModel("All is paid.")
    async with kept(tmp_path, holder, model=model, agents={"max_calls_per_reply": later}) as mesh:
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
    assert (outcome.text, holder.paid) == ("All is paid.", list(range(8)))
    answers = [message.content for message in model.requests[0].messages if message.role == "tool"]
    assert ["the first 8 ran" in answer for answer in answers] == [number >= 8 for number in range(12)]
