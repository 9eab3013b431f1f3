"""Approvals on every host: several at once, each decided and recorded once, through crashes and restarts."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from meshwright.core.errors import WaitExpired
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Answer
from meshwright.testing import ManualClock
from tests.support.worker_pool import Shift, StartWorkers, WorkerPool


async def approves_two(shift: Shift) -> str:
    """Two calls of tools side by side, each of which needs an approval."""
    return " ".join(await asyncio.gather(*(_call(shift, name) for name in ("deploy", "notify"))))


async def _call(shift: Shift, tool: str) -> str:
    subject = {"kind": "approval", "tool": tool, "arguments": {}, "agent_id": "helper"}
    expires_at = shift.pool.runtime.clock.now() + timedelta(hours=1)
    try:
        decision = await shift.journal.wait(
            f"approve {tool}", {}, reason=f"May {tool}?", subject=subject, binds=tool, expires_at=expires_at
        )
    except WaitExpired:
        return f"{tool} expired"
    return await shift.do(tool) if decision["approve"] else f"{tool} denied"


async def waits(pool: WorkerPool) -> dict[str, str]:
    """Wait for both questions; the key of each by its tool."""
    await pool.until(lambda: len(pool.events("approval.requested")) == 2)
    return {event.payload["tool"]: event.payload["key"] for event in pool.events("approval.requested")}


async def decide(pool: WorkerPool, key: str, approve: bool) -> bool:
    value: dict[str, Any] = {"approve": approve, "reason": "so"}
    answer = Answer(task_id="t1", key=key, value=value, answered_by="ann")
    return await pool.runtime.call(ActorRef("helper", "default:t1"), "resume", answer)


@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_approvals_side_by_side_are_decided_and_recorded_once(
    start_workers: StartWorkers, then: str
) -> None:
    pool = await start_workers(approves_two)
    await pool.submit("t1")
    keys = await waits(pool)
    if then != "go on":
        await getattr(pool, then)()
    assert await decide(pool, keys["notify"], approve=False)
    assert not await decide(pool, keys["notify"], approve=True)
    await pool.until(lambda: len(pool.events("task.waiting")) == 3)  # it waits again, for the other
    if then != "go on":
        await getattr(pool, then)()
    assert await decide(pool, keys["deploy"], approve=True)
    outcome = await pool.outcome("t1")
    assert outcome.text.startswith("deploy by ") and outcome.text.endswith(" notify denied")
    assert pool.begun == ["t1 deploy"]
    assert len(pool.events("approval.requested")) == 2
    [given], [denied] = pool.events("approval.given"), pool.events("approval.denied")
    assert (given.payload["tool"], given.payload["decided_by"], given.payload["reason"]) == (
        "deploy",
        "ann",
        "so",
    )
    assert (denied.payload["tool"], denied.payload["decided_by"]) == ("notify", "ann")


async def runs_what_is_approved(shift: Shift) -> str:
    """A call of a tool that two have to approve; it gives what it was approved with, after a step."""
    call = {"tool": "deploy", "arguments": {"place": "prod"}, "agent_id": "helper"}
    decision = await shift.journal.wait(
        "approve deploy", {}, subject={"kind": "approval", "approvals_needed": 2, **call}
    )
    await shift.do("deploy")
    return str(decision.get("arguments"))


@pytest.mark.parametrize("changer", ["first", "second"])
@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_changed_arguments_end_a_question_that_needs_two_approvals(
    start_workers: StartWorkers, then: str, changer: str
) -> None:
    pool = await start_workers(runs_what_is_approved)
    await pool.submit("t1")
    await pool.until(lambda: pool.events("approval.requested"))
    key = pool.events("approval.requested")[0].payload["key"]

    async def approve(by: str, **more: Any) -> bool:
        answer = Answer(task_id="t1", key=key, value={"approve": True, **more}, answered_by=by)
        return await pool.runtime.call(ActorRef("helper", "default:t1"), "resume", answer)

    if changer == "second":
        assert await approve("ann") and pool.begun == []
    pool.hold("t1 deploy")
    changed = {"place": "test", "password": "hunter2222"}
    assert await approve("bob", arguments=changed)
    await pool.has_begun("t1 deploy")
    assert not await approve("ann")
    if then != "go on":
        await getattr(pool, then)()
    pool.let_go("t1 deploy")
    assert (await pool.outcome("t1")).text == str(changed)
    given = pool.events("approval.given")[-1].payload
    assert (given["decided_by"], given["arguments"]) == ("bob", {"place": "test", "password": "[redacted]"})
    assert len(pool.events("approval.requested")) == 1


async def test_an_approval_expires_where_nobody_decides(start_workers: StartWorkers) -> None:
    clock = ManualClock()
    pool = await start_workers(approves_two, clock=clock)
    await pool.submit("t1", deadline_at=clock.now() + timedelta(days=1))
    keys = await waits(pool)
    assert await decide(pool, keys["deploy"], approve=True)
    await pool.has_begun("t1 deploy")
    await clock.advance(3_601)
    assert (await pool.outcome("t1")).text.endswith(" notify expired")
    [expired] = pool.events("approval.expired")
    assert (expired.payload["tool"], expired.payload["decided_by"]) == ("notify", None)
    assert not await decide(pool, keys["notify"], approve=True)
