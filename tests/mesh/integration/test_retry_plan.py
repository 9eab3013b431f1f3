"""The plan of a retry: the steps that each way keeps and repeats, their effects and costs."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from meshwright import Agent, Capability, Run, tool
from meshwright.cli.app import mesh as cli
from meshwright.core.access import Role
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMINS, PRICED, Helper, priced_reply
from tests.support.tenants import holder


class Payer(Agent):
    """Asks a helper, pays by a tool, then fails."""

    agent_id = "payer"
    capabilities = (Capability("paying"),)
    delegates_to = ("helper",)
    remembers = False
    prompt_text = "Pay."

    @tool
    async def charge(self, amount: int) -> str:
        """Charge a card."""
        return f"charged {amount}"

    @tool(effect="read")
    async def balance(self) -> str:
        """Read the balance."""
        return "100"

    async def run(self, run: Run) -> str:
        await run.state("PAYING")  # changes nothing
        await run.delegate("helper", "How much?")
        await run.converse()
        raise ValueError("the receipt was lost")


def replies() -> list[ModelReply | ToolCall]:
    paying = [tool_call("balance"), tool_call("charge", amount=7)]
    return [priced_reply("7", 10), *paying, priced_reply("Charged.", 20)]


async def failed_payment(api: Api) -> str:
    return await api.finished(agent_id="payer", payload={"text": "Pay it."})


async def test_a_plan_has_steps_effects_and_costs_of_each_way(tmp_path: Path) -> None:
    script = ScriptedModel(*replies())
    async with http_mesh(tmp_path, Payer, Helper, script=script, ledger=PRICED) as api:
        task_id = await failed_payment(api)
        plan = await api.client.retry_plan(task_id)
        start, journal = plan.ways
        assert (start.begin, journal.begin) == ("start", "journal")  # the agent was at fault
        assert plan.error is not None and plan.error.type == "ValueError"
        assert start.names == ("step state", "delegate helper", "3 × model", "tool balance", "tool charge")
        assert start.effects == ("delegate helper", "tool charge")
        assert (start.steps_kept, start.asks) == (0, True)
        assert start.cost_usd == Decimal("0.6")  # of the helper too
        first = "A person decides first whether to repeat what may have taken effect"
        assert start.text.endswith(f"{first}: delegate helper, tool charge.")
        assert (journal.steps_again, journal.cost_usd, journal.effects) == (0, 0, ())
        assert journal.steps_kept == start.steps_again
        assert (await api.get(f"/tasks/{task_id}"))["status"] == "failed"  # nothing has changed
        result = await api.client.retry(task_id, begin="journal", dry_run=True)
        assert result.steps_kept == journal.steps_kept


async def test_a_task_that_did_not_fail_has_no_plan(tmp_path: Path) -> None:
    async with http_mesh(tmp_path) as api:
        task_id = await api.finished(agent_id="echo", payload={"text": "Hello"})
        status, problem = await api.call("GET", f"/tasks/{task_id}/retry")
        assert (status, problem["code"]) == (409, "Conflict")
        assert (await api.call("GET", "/tasks/01M8CNWMWF84R7FKFNFRPF0ZW4/retry"))[0] == 404


async def test_names_of_steps_are_for_callers_who_see_contents(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**ADMINS, "ledger": PRICED}
    async with http_mesh(tmp_path, Payer, Helper, script=ScriptedModel(*replies()), **settings) as api:
        submitter = await holder(api, "default", Role.SUBMITTER)
        request = {"agent_id": "payer", "payload": {"text": "Pay it."}}
        _, receipt = await api.call("POST", "/tasks", json=request, headers=submitter)
        path = f"/tasks/{receipt['task_id']}/retry"
        await api.mesh.get(Tasks).outcome(receipt["task_id"])
        assert (await api.call("GET", path, headers=await holder(api, "default", Role.VIEWER)))[0] == 403
        assert (await api.call("GET", path, headers=await holder(api, "acme", Role.OPERATOR)))[0] == 404
        _, plan = await api.call("GET", path, headers=await holder(api, "default", Role.OPERATOR))
        assert "charge" not in str(plan) and "receipt was lost" not in str(plan)
        assert plan["ways"][0]["steps_again"] > 0 and plan["ways"][0]["cost_usd"] == "0.6"


async def test_the_command_line_says_the_same_before_it_retries(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Payer, Helper, script=ScriptedModel(*replies()), ledger=PRICED) as api:
        task_id = await failed_payment(api)
        plan = await api.client.retry_plan(task_id)
        command = ["retry", task_id, "--dry-run", "--url", api.url]
        result = await asyncio.to_thread(CliRunner().invoke, cli, command)
        lines = result.output.splitlines()
        assert lines[0] == f"--from start: {plan.ways[0].text} This is the usual way."
        assert lines[1] == f"--from journal: {plan.ways[1].text}"
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*command, "--from", "journal"])
        assert result.output.splitlines() == [lines[1]]


class Counter(Agent):
    """Counts in a step that may be repeated, then fails, in a step too if its task says so."""

    agent_id = "counter"
    capabilities = (Capability("counting"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.step("count", self._count)
        if run.task.text == "Fail in a step":
            await run.step("fail", self._fail)
        raise ValueError("lost count")

    async def _count(self) -> int:
        return 1

    async def _fail(self) -> None:
        raise ValueError("lost count")


async def test_a_plan_names_a_person_only_if_the_retry_asks_one(tmp_path: Path) -> None:
    async with http_mesh(tmp_path, Counter, Payer, Helper, script=ScriptedModel(*replies())) as api:
        for text, again in (("Count.", "count"), ("Fail in a step", "fail")):
            task_id = await api.finished(agent_id="counter", payload={"text": text})
            start, journal = (await api.client.retry_plan(task_id)).ways
            assert (start.asks, journal.asks) == (False, False)
            way = start if again == "count" else journal
            assert f"These may take effect once more: step {again}" in way.text
            await api.client.retry(task_id, begin=None if way is start else "journal")
            assert (await api.client.outcome(task_id)).error is not None
            assert len((await api.client.task(task_id)).attempts) == 2
        paid = await failed_payment(api)
        assert (await api.client.retry_plan(paid)).ways[0].asks
        await api.client.retry(paid)
        async with asyncio.timeout(60):
            while not (questions := await api.client.inbox()):
                await asyncio.sleep(0.01)
        assert "repeat these steps" in questions[0].question
