"""Calls that run side by side keep their keys, whatever ends first, through stops, cancels and retries."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Run, ToolContext, tool
from meshwright.core.messages import TaskRequest
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import ScriptedModel, tool_call
from tests.support.interrupted_mesh import PATIENCE_SECONDS, kept

ACCOUNTS = ("a", "b", "c")
ENDED_BEFORE = [ended for n in range(3) for ended in itertools.permutations(ACCOUNTS, n)]
POLL_SECONDS = 0.005


class Bank:
    """Notes each request with its key; requests for accounts that are on hold wait."""

    def __init__(self, *on_hold: str) -> None:
        self.requests: list[tuple[str, str]] = []
        self.order = "abc"
        """In which branches reach their first step."""
        self.on_hold = {account: asyncio.Event() for account in on_hold}

    async def charge(self, account: str, key: str) -> str:
        self.requests.append((account, key))
        if account in self.on_hold:
            await self.on_hold[account].wait()
        return f"charged {account}"

    def check_keys(self) -> None:
        """Each key is that of one account, and each account has one key."""
        accounts, keys = defaultdict(set), defaultdict(set)
        for account, key in self.requests:
            accounts[key].add(account)
            keys[account].add(key)
        assert all(len(owners) == 1 for owners in accounts.values()), self.requests
        assert all(len(own) == 1 for own in keys.values()), self.requests


def payer(bank: Bank) -> type[Agent]:
    class Payer(Agent):
        """Charges accounts."""

        agent_id = "payer"
        capabilities = (Capability("paying"),)

        @tool(idempotent=True)
        async def charge(self, account: str, context: ToolContext) -> str:
            """Charge an account, once for each key."""
            return await bank.charge(account, context.step_id)

        async def run(self, run: Run) -> dict[str, Any]:
            how = run.task.payload["how"]
            if how == "model":
                return {"text": await run.converse()}
            accounts = [self.behind_a_look(run, one) if how == "look" else one for one in ACCOUNTS]
            calls = [run.call("charge", account=one) if isinstance(one, str) else one for one in accounts]
            return {"receipts": await run.gather(*calls)}

        async def behind_a_look(self, run: Run, account: str) -> Any:
            """Charge an account behind a step that all branches have, which they reach in any order."""
            await asyncio.sleep(0.01 * bank.order.index(account))
            await run.step("look", self.look)
            return await run.call("charge", account=account)

        async def look(self) -> str:
            return "seen"

    return Payer


async def begun(mesh: Mesh, bank: Bank, calls: int, ended: int) -> None:
    """Wait for so many requests at the bank, and until so many calls have ended durably."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(bank.requests) < calls or len(await results(mesh)) < ended:
            await asyncio.sleep(POLL_SECONDS)


async def results(mesh: Mesh) -> Sequence[Any]:
    return await mesh.log.query(EventFilter(event_type="tool.called"))


async def submitted(mesh: Mesh, how: str) -> str:
    request = TaskRequest(agent_id="payer", payload={"how": how})
    return (await mesh.get(Tasks).submit(request)).task_id


def model() -> ScriptedModel:
    calls = [tool_call("charge", account=account) for account in ACCOUNTS]
    return ScriptedModel(calls, "done")


@pytest.mark.parametrize("how", ["gather", "model"])
@pytest.mark.parametrize("ended", ENDED_BEFORE, ids="".join)
async def test_a_key_stays_with_its_call_through_a_stop(
    tmp_path: Path, ended: Sequence[str], how: str
) -> None:
    bank, scripted = Bank(*ACCOUNTS), model()
    async with kept(tmp_path, payer(bank), model=scripted) as mesh:
        task_id = await submitted(mesh, how)
        for number, account in enumerate(("", *ended)):
            bank.on_hold.get(account, asyncio.Event()).set()
            await begun(mesh, bank, len(ACCOUNTS), number)
    bank.on_hold = {}
    async with kept(tmp_path, payer(bank), model=scripted) as mesh:
        assert (await mesh.get(Tasks).outcome(task_id)).success
    bank.check_keys()


@pytest.mark.parametrize("ended", ENDED_BEFORE, ids="".join)
async def test_a_key_stays_with_its_call_through_a_cancel_and_a_retry(
    tmp_path: Path, ended: Sequence[str]
) -> None:
    bank = Bank(*ACCOUNTS)
    async with kept(tmp_path, payer(bank), model=model()) as mesh:
        task_id = await submitted(mesh, "model")
        for number, account in enumerate(("", *ended)):
            bank.on_hold.get(account, asyncio.Event()).set()
            await begun(mesh, bank, len(ACCOUNTS), number)
        await mesh.get(Tasks).cancel(task_id)
        assert (await mesh.get(Tasks).outcome(task_id)).status == "cancelled"
        bank.on_hold = {}
        await mesh.get(Tasks).retry(task_id)
        assert (await mesh.get(Tasks).outcome(task_id)).success
    bank.check_keys()
    assert len(bank.requests) == 2 * len(ACCOUNTS) - len(ended)


async def test_a_key_stays_with_its_call_where_branches_begin_alike(tmp_path: Path) -> None:
    bank = Bank(*ACCOUNTS)
    async with kept(tmp_path, payer(bank)) as mesh:
        task_id = await submitted(mesh, "look")
        await begun(mesh, bank, len(ACCOUNTS), 0)
    bank.on_hold = {}
    async with kept(tmp_path, payer(bank)) as mesh:
        bank.order = "cba"
        assert (await mesh.get(Tasks).outcome(task_id)).success
    bank.check_keys()
