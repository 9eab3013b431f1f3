"""The tools of the clerks in a mesh, whose work an agent of a framework does."""

from __future__ import annotations

import os

from benchmarks.crash.shop_tools import act, has_happened, perform
from meshwright import Agent, Capability, CheckResult, ToolContext, tool

_ASKS = os.environ.get("CRASH_ASKS") == "1"
_CHECK = "was_done" if os.environ.get("CRASH_CHECKS") == "1" else None
_do = perform if _CHECK else act  # without a check, as alone: the model gets a failure


class Clerk(Agent):
    """Refunds orders."""

    agent_id = "clerk"
    capabilities = (Capability("refunds"),)

    @tool(idempotent=True, effect="read")
    async def look_up(self, order: str) -> str:
        """Look up an order."""
        return await _do("look_up")

    @tool(check=_CHECK, needs_approval=_ASKS)
    async def refund(self, payment: str, cents: int, context: ToolContext) -> str:
        """Refund a payment."""
        return await _do("refund", context.step_id)

    @tool(check=_CHECK)
    async def notify(self, customer: str, context: ToolContext) -> str:
        """Notify a customer."""
        return await _do("notify", context.step_id)

    async def was_done(self, step_id: str) -> CheckResult:
        """Ask the shop, which knows what it has done."""
        if await has_happened(step_id):
            return CheckResult.happened("it is done", "the shop lists it")
        return CheckResult.did_not_happen("the shop does not list it")
