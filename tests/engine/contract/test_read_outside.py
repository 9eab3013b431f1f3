"""A run that has read text from outside knows it on every host, through crashes and restarts."""

import pytest

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Answer
from tests.support.worker_pool import Shift, StartWorkers


async def reads_and_asks(shift: Shift) -> str:
    """Read in a step of a task that is named so, then wait for an answer."""
    async with shift.journal.open_step("read", {}) as outer:
        if not outer.is_replayed:
            async with shift.journal.open_step("look", {}) as inner:
                if not inner.is_replayed:
                    if shift.task_id == "outside":
                        shift.journal.read_outside()
                    inner.finish("seen")
            outer.finish("read")
    known = shift.journal.outside
    await shift.journal.wait("ask", {}, reason="Go on?")
    return f"{known} {shift.journal.outside}"


@pytest.mark.parametrize("then", ["go on", "crash", "restart"])
async def test_a_run_that_goes_on_knows_what_it_has_read(start_workers: StartWorkers, then: str) -> None:
    pool = await start_workers(reads_and_asks)
    for task_id in ("outside", "inside"):
        await pool.submit(task_id)
    await pool.until(lambda: len(pool.events("task.waiting")) == 2)
    if then != "go on":
        await getattr(pool, then)()
    for event in pool.events("task.waiting"):
        answer = Answer(task_id=event.task_id or "", key=event.payload["key"], value="yes", answered_by="ann")
        assert await pool.runtime.call(ActorRef("helper", f"default:{event.task_id}"), "resume", answer)
    assert (await pool.outcome("outside")).text == "True True"
    assert (await pool.outcome("inside")).text == "False False"
