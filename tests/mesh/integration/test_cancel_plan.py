"""The plan of a cancel: what stays done, what is cut off, the tasks below, and the costs so far."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from meshwright import Agent, Capability, Run, tool
from meshwright.cli.app import mesh as cli
from meshwright.core.access import Role
from meshwright.models.port import ModelReply, ToolCall
from meshwright.testing import ScriptedModel, tool_call
from tests.support.http_mesh import Api, http_mesh
from tests.support.page import ADMINS, PRICED, Releaser, priced_reply
from tests.support.tenants import holder


class Buyer(Agent):
    """Reads the stock, orders by a tool, then waits for a release."""

    agent_id = "buyer"
    capabilities = (Capability("buying"),)
    delegates_to = ("releaser",)
    remembers = False
    prompt_text = "Buy."

    @tool
    async def order(self, amount: int) -> str:
        """Order something."""
        return f"ordered {amount}"

    @tool(effect="read")
    async def stock(self) -> str:
        """Read the stock."""
        return "none"

    async def run(self, run: Run) -> str:
        await run.converse()
        return await run.delegate("releaser", "Ship it.")


def replies() -> list[ModelReply | ToolCall]:
    return [tool_call("stock"), tool_call("order", amount=7), priced_reply("Ordered.", 20)]


async def waiting_order(api: Api, **headers: Any) -> str:
    """A task that has ordered, and waits for a task below it, which asks a person."""
    request = {"agent_id": "buyer", "payload": {"text": "Buy it."}}
    status, receipt = await api.call("POST", "/tasks", json=request, **headers)
    assert status == 202, receipt
    async with asyncio.timeout(60):
        while not (await api.call("GET", "/inbox", **headers))[1]["items"]:
            await asyncio.sleep(0.02)
    return receipt["task_id"]


async def test_a_plan_says_what_is_not_undone_and_what_ends_too(tmp_path: Path) -> None:
    script = ScriptedModel(*replies())
    async with http_mesh(tmp_path, Buyer, Releaser, script=script, ledger=PRICED) as api:
        task_id = await waiting_order(api)
        plan = await api.client.cancel_plan(task_id)
        assert (plan.effects, plan.cut_off) == (("tool order",), ())
        assert (plan.tasks_below, plan.cost_usd) == (1, Decimal("0.4"))
        for sentence in (
            "This is not undone: tool order.",
            "1 open task that it delegated is cancelled too.",
            "So far it cost $0.4000.",
        ):
            assert sentence in plan.text
        assert (await api.get(f"/tasks/{task_id}"))["status"] == "waiting"  # nothing has changed
        command = ["cancel", task_id, "--dry-run", "--url", api.url]
        result = await asyncio.to_thread(CliRunner().invoke, cli, command)
        assert result.output == f"{plan.text}\n"
        await api.client.cancel(task_id)
        await api.client.outcome(task_id)
        assert (await api.call("GET", f"/tasks/{task_id}/cancel"))[0] == 409
        assert (await api.get("/inbox"))["items"] == []  # the question of the task below has ended


async def test_names_in_a_plan_are_for_callers_who_see_contents(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**ADMINS, "ledger": PRICED}
    script = ScriptedModel(*replies())
    async with http_mesh(tmp_path, Buyer, Releaser, script=script, **settings) as api:
        task_id = await waiting_order(
            api, headers=await holder(api, "default", Role.SUBMITTER, Role.CONTENTS)
        )
        path = f"/tasks/{task_id}/cancel"
        assert (await api.call("GET", path, headers=await holder(api, "default", Role.VIEWER)))[0] == 403
        assert (await api.call("GET", path, headers=await holder(api, "acme", Role.OPERATOR)))[0] == 404
        _, plan = await api.call("GET", path, headers=await holder(api, "default", Role.OPERATOR))
        assert "order" not in str(plan) and "releaser" not in str(plan)
        assert plan["tasks_below"] == 1 and "1 kind of steps" in plan["text"]
