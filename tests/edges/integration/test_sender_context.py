"""The context that a run passes on to those that it delegates to."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from meshwright import Agent, Capability, Delegation, Run, ToolFailed, WaitExpired, tool
from meshwright.core.errors import AgentError, DelegationFailed
from meshwright.models.port import ModelRequest
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call


class Planner(Agent):
    """Looks around, and has the work done by others."""

    agent_id = "planner"
    capabilities = (Capability("planning"),)
    delegates_to = ("coder", "breaker")

    @tool(effect="read")
    async def look(self, host: str) -> str:
        """Look at a host.

        Args:
            host: its name
        """
        if host == "down.example":
            raise ToolFailed(f"{host} refuses the connection: password=hunter2hunter2")
        return "it is up"

    async def run(self, run: Run) -> str:
        await run.progress("PLANNING")
        await run.converse()
        with suppress(WaitExpired):
            await run.ask_person("Which port is free?", expires=run.task.created_at)
        with suppress(DelegationFailed):
            await run.delegate("breaker", "Break.")
        await run.progress("IMPLEMENTATION")
        answer = await run.delegate(
            "coder", "Build it.", constraints=["Use SQLite."], questions=["Until when?"]
        )
        return str(answer)


class Breaker(Agent):
    """Fails."""

    agent_id = "breaker"
    capabilities = (Capability("breaking"),)

    async def run(self, run: Run) -> str:
        raise ToolFailed("it is too hard")


class Coder(Agent):
    """Has a part of it done by another."""

    agent_id = "coder"
    capabilities = (Capability("coding"),)
    delegates_to = ("checker",)

    async def run(self, run: Run) -> str:
        await run.converse()
        return await run.delegate("checker", "Check it.")


class Checker(Agent):
    """Answers."""

    agent_id = "checker"
    capabilities = (Capability("checking"),)


AGENTS = (Planner, Breaker, Coder, Checker)
PREFACE = """\
planner passes this on with the request that comes next. CONSTRAINTS hold for your work on it. The rest is
material to judge: how far it is, what failed and need not be tried again, and what is still open.

"""
PASSED_ON = """\
METADATA:
workflow_state: IMPLEMENTATION
CONSTRAINTS:
- Stay small.
- Use SQLite.
KNOWN_FAILURES:
- look({"host": "down.example"}) failed: down.example refuses the connection: password=[redacted]
- breaker failed: breaker did not succeed: it is too hard
OPEN_QUESTIONS:
- Which port is free?
- Until when?"""


async def planned(mesh: MeshUnderTest, **payload: Any) -> ScriptedModel:
    """Have the planner work, and return the model with all that it was asked."""
    model = mesh.model
    assert isinstance(model, ScriptedModel)
    model.replies(
        tool_call("look", host="down.example"),
        tool_call("look", hosts=1),
        tool_call("look", host="up.example"),
        "Looked.",
        to="planner",
    )
    model.replies("Built.", to="coder")
    model.replies("Checked.", to="checker")
    receipt = await mesh.submit(agent_id="planner", payload={"text": "Plan it.", **payload})
    outcome = await mesh.outcome(receipt.task_id)
    assert outcome.text == "Checked.", outcome
    return model


def said_to(model: ScriptedModel, agent_id: str) -> list[str]:
    """The messages of an agent's first call, but for its prompt."""
    requests: list[ModelRequest] = [request for request in model.requests if request.user == agent_id]
    return [message.text for message in requests[0].messages[1:]]


async def test_a_delegate_gets_constraints_failures_questions_and_progress() -> None:
    async with mesh_for(*AGENTS) as mesh:
        model = await planned(mesh, constraints=["Stay small."])
        assert said_to(model, "coder") == [PREFACE + PASSED_ON, "Build it."]
        received = [
            {name: payload.get(name) for name in ("sender", "constraints", "known_failures", "questions")}
            for payload in mesh.events("context.received").payloads
        ]
    of_planner = {"sender": "planner", "constraints": 2, "known_failures": 2, "questions": 2}
    assert received == [of_planner, {**of_planner, "sender": "coder", "questions": None}]


async def test_constraints_and_failures_go_on_to_those_below_and_questions_do_not() -> None:
    async with mesh_for(*AGENTS) as mesh:
        passed_on, request = said_to(await planned(mesh, constraints="Stay small."), "checker")
    assert passed_on.startswith("coder passes this on")
    assert "CONSTRAINTS:\n- Stay small.\n- Use SQLite.\nKNOWN_FAILURES:\n- look(" in passed_on
    assert "OPEN_QUESTIONS" not in passed_on and "IMPLEMENTATION" not in passed_on
    assert request == "Check it."


async def test_a_rule_between_two_agents_holds_for_what_is_passed_on() -> None:
    rule = {"sender": "planner", "receiver": "coder", "strip_fields": ["known_failures", "workflow_state"]}
    async with mesh_for(*AGENTS, context={"rules": [rule]}) as mesh:
        passed_on = said_to(await planned(mesh), "coder")[0]
    assert passed_on.removeprefix(PREFACE) == (
        "CONSTRAINTS:\n- Use SQLite.\nOPEN_QUESTIONS:\n- Which port is free?\n- Until when?"
    )


async def test_a_call_that_succeeds_later_is_no_known_failure() -> None:
    class Trier(Agent):
        agent_id = "trier"
        capabilities = (Capability("trying"),)
        delegates_to = ("checker",)
        tries = 0

        @tool(effect="read")
        async def flaky(self) -> str:
            """Fail once."""
            Trier.tries += 1
            if Trier.tries == 1:
                raise ToolFailed("not yet")
            return "done"

        async def run(self, run: Run) -> str:
            await run.converse()
            return await run.delegate("checker", "Check it.")

    model = ScriptedModel(tool_call("flaky"), tool_call("flaky"), "Done.", "Checked.")
    async with mesh_for(Trier, Checker, model=model) as mesh:
        assert (await mesh.ask("trier", "Try.")).success
    assert (Trier.tries, said_to(model, "checker")) == (2, ["Check it."])


class Asker(Agent):
    """Has its model delegate, waits for a person, then delegates by itself."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    delegates_to = ("breaker", "checker")

    async def run(self, run: Run) -> str:
        await run.converse()
        await run.ask_person("Go on?")
        return await run.delegate("checker", "Check it.")


async def test_a_resumed_run_knows_what_failed_before_it_waited() -> None:
    model = ScriptedModel(tool_call("delegate", agent_id="breaker", text="Break."), "Tried.", "Checked.")
    async with mesh_for(Asker, Breaker, Checker, model=model) as mesh:
        receipt = await mesh.submit(agent_id="asker", payload={"text": "Try it."})
        [question] = await mesh.questions()
        await mesh.answer(question, "yes")
        assert (await mesh.outcome(receipt.task_id)).text == "Checked."
    passed_on = said_to(model, "checker")[0]
    assert "- breaker failed: breaker did not succeed: it is too hard" in passed_on
    assert passed_on.count("too hard") == 1 and "OPEN_QUESTIONS" not in passed_on


@pytest.mark.parametrize("texts", ["one text", ["x"] * 21, ["x" * 2001], [""], [7]])
def test_constraints_that_are_no_short_texts_are_refused(texts: Any) -> None:
    with pytest.raises(AgentError, match="the constraints of a delegation"):
        Delegation("coder", "Build it.", constraints=texts)


MANY = [f"Rule {number} of the house is that nothing may be lost, ever, by anybody." for number in range(20)]
PRICE = {"input": "3", "output": "15"}


@pytest.mark.parametrize("price", [PRICE, None])
@pytest.mark.parametrize(("ceiling", "event"), [(300, "context.kept"), (20, "context.compressed")])
async def test_a_context_is_compressed_only_where_that_saves_more_than_it_costs(
    ceiling: int, event: str, price: dict[str, str] | None
) -> None:
    rules = [{"receiver": "coder", "token_ceiling": ceiling}]
    async with mesh_for(*AGENTS, context={"rules": rules}, ledger={"default_price": price}) as mesh:
        model = await planned(mesh, constraints=MANY)
        [figures] = [payload for payload in mesh.events(event).payloads if payload["ceiling"] == ceiling]
    asked = [request for request in model.requests if request.user == "context-service"]
    unit = "usd" if price else "tokens"
    saves = Decimal(figures[f"saved_{unit}"]) > Decimal(figures[f"cost_{unit}"])
    assert (saves, len(asked)) == (event == "context.compressed", int(event == "context.compressed"))
    assert figures["saved_tokens"] == figures["calls"] * (figures["tokens"] - ceiling)
    assert (Decimal(figures["saved_usd"]) > 0) == (price is not None)  # a scripted call costs nothing


async def test_a_compression_is_weighed_by_the_calls_of_the_agents_last_tasks() -> None:
    rules = [{"receiver": "coder", "token_ceiling": 300}]
    async with mesh_for(*AGENTS, context={"rules": rules}, ledger={"default_price": PRICE}) as mesh:
        for _ in range(2):  # the coder asks its model once
            await planned(mesh, constraints=MANY)
        weighed = [payload for payload in mesh.events("context.kept").payloads if payload["ceiling"] == 300]
    assert [figures["calls"] for figures in weighed] == [4, 1]
