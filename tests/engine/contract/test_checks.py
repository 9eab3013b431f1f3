"""Checks on every store: a step that a crash interrupted is settled by what its check knows."""

import pytest

from meshwright.core.checks import CheckResult
from tests.support.worker_pool import Shift, StartWorkers

FINDINGS = {
    "happened": CheckResult.happened("receipt 8", "it is on the list"),
    "did_not_happen": CheckResult.did_not_happen("the list is closed without it"),
    "unknown": CheckResult.unknown("the list is away"),
}


@pytest.mark.parametrize("outcome", FINDINGS)
async def test_a_step_cut_off_by_a_crash_is_settled_by_its_check(
    start_workers: StartWorkers, outcome: str
) -> None:
    checked: list[int] = []

    async def pays(shift: Shift) -> str:
        async def pay() -> str:
            await shift.pool.begin("t1 pay")
            return f"paid by {shift.work.fence}"

        async def check() -> CheckResult:
            checked.append(shift.work.fence)
            return FINDINGS[outcome]

        return str(await shift.journal.step("pay", {}, pay, repeatable=False, check=check))

    pool = await start_workers(pays)
    pool.hold("t1 pay")
    await pool.submit("t1")
    await pool.has_begun("t1 pay")
    await pool.crash()
    pool.let_go("t1 pay")
    if outcome == "unknown":
        await pool.until(lambda: bool(pool.events("task.waiting")))
        [waiting] = pool.events("task.waiting")
        assert waiting.payload["subject"]["check"] == "the list is away"
        assert pool.begun == ["t1 pay"]
        await pool.answer("t1", {"approve": False, "result": "it was paid"})
    final = await pool.outcome("t1")
    assert final.text == {"happened": "receipt 8", "unknown": "it was paid"}.get(outcome, "paid by 2")
    assert pool.begun == ["t1 pay"] * (2 if outcome == "did_not_happen" else 1)
    assert checked == [2]
    [event] = pool.events("step.checked")
    assert (event.payload["name"], event.payload["outcome"]) == ("pay", outcome)
    assert event.payload["evidence"] == FINDINGS[outcome].evidence
